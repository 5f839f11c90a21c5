"""What the arguments of an attention op must be, said to the caller who got one wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrec_gr.ops.attention_bias import AttentionBias
from torchrec_gr.ops.attention_spans import KeySpans

_INTEGERS = (torch.int32, torch.int64)


def check_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    spans: KeySpans,
    max_seq_len: int,
    bias: AttentionBias | None,
) -> None:
    """Raises ValueError, naming the argument, what was expected and what was got."""
    if max_seq_len < 1:
        raise ValueError(f"max_seq_len: expected at least 1, got {max_seq_len}")
    _check_values(q, k, v)
    _check_offsets("q_offsets", q_offsets, q)
    _check_offsets("k_offsets", k_offsets, q)
    if q_offsets.shape != k_offsets.shape:
        raise ValueError(
            f"k_offsets: expected as many rows as q_offsets has ({len(q_offsets) - 1}), "
            f"got {len(k_offsets) - 1}"
        )
    _check_ends("q_offsets", q_offsets, "q", q)
    _check_ends("k_offsets", k_offsets, "k", k)
    _check_spans(spans, q, q_offsets, k_offsets)
    if bias is not None:
        _check_bias(bias, q, k, k_offsets, spans, max_seq_len)


def check_scale(scale: Tensor, q: Tensor) -> None:
    """Raises ValueError where a scale that is a tensor is not one float a query."""
    if scale.shape != q.shape[:1] or not scale.is_floating_point():
        raise ValueError(
            f"scale: expected a float or floats of shape ({len(q)},), one a query; got "
            f"{_shape(scale)} {scale.dtype}"
        )
    _check_device("scale", scale, q)


def _check_values(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 3:
            raise ValueError(f"{name}: expected 3 axes (tokens, heads, width), got {_shape(x)}")
        if not x.is_floating_point() or x.dtype != q.dtype:
            raise ValueError(f"{name}: expected a float dtype, the same for q, k, v; got {x.dtype}")
        _check_device(name, x, q)
    if k.shape[1:] != q.shape[1:]:
        raise ValueError(
            f"k: expected heads and width of q, (Tk, {q.shape[1]}, {q.shape[2]}); got {_shape(k)}"
        )
    if v.shape[:2] != k.shape[:2]:
        raise ValueError(
            f"v: expected tokens and heads of k, ({k.shape[0]}, {k.shape[1]}, V); got {_shape(v)}"
        )


def _check_offsets(name: str, offsets: Tensor, q: Tensor) -> None:
    if offsets.ndim != 1 or len(offsets) < 2 or offsets.dtype not in _INTEGERS:
        raise ValueError(
            f"{name}: expected [B + 1] int32 or int64 with B >= 1, got {_shape(offsets)} "
            f"{offsets.dtype}"
        )
    _check_device(name, offsets, q)


def _check_ends(name: str, offsets: Tensor, what: str, tokens: Tensor) -> None:
    first, last, shortest = int(offsets[0]), int(offsets[-1]), int(offsets.diff().min())
    if first != 0 or last != len(tokens) or shortest < 0:
        raise ValueError(
            f"{name}: expected to rise from 0 to the {len(tokens)} tokens of {what}, got first "
            f"{first}, last {last}, smallest step {shortest}"
        )


def _check_spans(spans: KeySpans, q: Tensor, q_offsets: Tensor, k_offsets: Tensor) -> None:
    for name in ("start", "end", "own"):
        x = getattr(spans, name)
        if x is None:
            continue
        if x.shape != q.shape[:1] or x.dtype != torch.int32:
            raise ValueError(
                f"spans.{name}: expected one a query, ({len(q)},) int32; got {_shape(x)} {x.dtype}"
            )
        _check_device(f"spans.{name}", x, q)
    num_queries, num_keys = q_offsets.diff(), k_offsets.diff()
    if spans.own is None:
        row = int((num_queries - num_keys).argmax())
        if num_queries[row] > num_keys[row]:
            raise ValueError(
                f"spans.own: left out, the queries are a row's trailing keys, but row {row} has "
                f"{int(num_queries[row])} queries and {int(num_keys[row])} keys: give own"
            )
    elif len(q):
        past = (spans.own - num_keys.repeat_interleave(num_queries)).max()
        if int(spans.own.min()) < -1 or int(past) >= 0:
            raise ValueError("spans.own: expected -1 (none) or a place among the keys of the row")


def _check_bias(
    bias: AttentionBias,
    q: Tensor,
    k: Tensor,
    k_offsets: Tensor,
    spans: KeySpans,
    max_seq_len: int,
) -> None:
    if not bias.uses_positions and bias.time_table is None:
        raise ValueError("bias: has no term, neither slopes nor a table: leave the bias out")
    heads = q.shape[1]
    _check_table("slopes", bias.slopes, q, {(heads,)})
    positions = 2 * max_seq_len - 1
    _check_table("position_table", bias.position_table, q, {(heads, positions), (1, positions)})
    buckets = bias.time_table.shape[-1] if bias.time_table is not None else 0
    _check_table("time_table", bias.time_table, q, {(heads, buckets), (1, buckets)})
    for name, tokens in (("q_positions", q), ("k_positions", k), ("q_times", q), ("k_times", k)):
        x = getattr(bias, name)
        if x is None:
            continue
        if x.shape != tokens.shape[:1] or x.dtype not in _INTEGERS:
            raise ValueError(
                f"bias.{name}: expected one a token, ({len(tokens)},) int32 or int64; got "
                f"{_shape(x)} {x.dtype}"
            )
        _check_device(f"bias.{name}", x, q)
    _check_defaults(bias, spans)
    if bias.position_table is not None:
        _check_positions(bias, k_offsets, max_seq_len)


def _check_table(name: str, table: Tensor | None, q: Tensor, shapes: set[tuple[int, ...]]) -> None:
    if table is None:
        return
    if tuple(table.shape) not in shapes or not table.is_floating_point():
        wanted = " or ".join(map(str, sorted(shapes)))
        raise ValueError(
            f"bias.{name}: expected floats of shape {wanted}; got {_shape(table)} {table.dtype}"
        )
    _check_device(f"bias.{name}", table, q)


def _check_defaults(bias: AttentionBias, spans: KeySpans) -> None:
    if bias.time_table is not None and bias.k_times is None:
        raise ValueError("bias.k_times: a time table needs the time of every key")
    if spans.own is None or not bool((spans.own < 0).any()):
        return
    if bias.uses_positions and bias.q_positions is None:
        raise ValueError("bias.q_positions: needed where a query has no key of its own (own = -1)")
    if bias.time_table is not None and bias.q_times is None:
        raise ValueError("bias.q_times: needed where a query has no key of its own (own = -1)")


def _check_positions(bias: AttentionBias, k_offsets: Tensor, max_seq_len: int) -> None:
    for name in ("q_positions", "k_positions"):
        x = getattr(bias, name)
        if x is None:
            low, high = 0, int(k_offsets.diff().max()) - 1
        elif x.numel():
            low, high = int(x.min()), int(x.max())
        else:
            continue
        if low < 0 or high >= max_seq_len:
            raise ValueError(
                f"bias.{name}: a position table of max_seq_len {max_seq_len} needs positions in "
                f"[0, {max_seq_len - 1}], got {low} to {high}"
            )


def _check_device(name: str, x: Tensor, q: Tensor) -> None:
    if x.device != q.device:
        raise ValueError(f"{name}: expected the device of q, {q.device}; got {x.device}")


def _shape(x: Tensor) -> str:
    return str(tuple(x.shape))
