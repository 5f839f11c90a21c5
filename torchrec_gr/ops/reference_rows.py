"""Jagged attention one row at a time: what the references share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from torchrec_gr.ops.attention_bias import AttentionBias
from torchrec_gr.ops.attention_spans import KeySpans, visible_keys


class ReferenceRow(NamedTuple):
    """One row: q [Q, H, A], k [K, H, A], v [K, H, V], visible [Q, K], bias [H or 1, Q, K]."""

    q: Tensor
    k: Tensor
    v: Tensor
    visible: Tensor
    bias: Tensor


def reference_rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    spans: KeySpans,
    bias: AttentionBias | None,
) -> Iterator[ReferenceRow]:
    """Cuts every row out and writes its mask and its bias as dense matrices."""
    own = spans.own_or_trailing(q_offsets, k_offsets)
    if bias is not None:
        bias = bias.with_defaults(q_offsets, k_offsets, spans)
    q_bounds, k_bounds = q_offsets.tolist(), k_offsets.tolist()
    for row in range(len(q_bounds) - 1):
        queries = slice(q_bounds[row], q_bounds[row + 1])
        keys = slice(k_bounds[row], k_bounds[row + 1])
        num_keys = keys.stop - keys.start
        visible = visible_keys(spans.start[queries], spans.end[queries], own[queries], num_keys)
        row_bias = q.new_zeros(1, queries.stop - queries.start, num_keys)
        if bias is not None:
            of_row = dataclasses.replace(
                bias,
                q_positions=_cut(bias.q_positions, queries),
                k_positions=_cut(bias.k_positions, keys),
                q_times=_cut(bias.q_times, queries),
                k_times=_cut(bias.k_times, keys),
            )
            row_bias = row_bias + of_row.scores().to(q.dtype)
        yield ReferenceRow(q[queries], k[keys], v[keys], visible, row_bias)


def _cut(x: Tensor | None, part: slice) -> Tensor | None:
    return None if x is None else x[part]
