"""Two jagged tensors joined row by row, and split again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_INTEGERS = (torch.int32, torch.int64)


def jagged_concat(a: Tensor, b: Tensor, a_offsets: Tensor, b_offsets: Tensor) -> Tensor:
    """Puts the tokens of each row of b behind those of the same row of a.

    The rows of the result begin at `a_offsets + b_offsets`. `jagged_split` undoes it, and is its
    gradient. On CUDA the host does not wait to look into offsets: an assertion on the device stops
    those that do not rise from 0 to the number of tokens.

    Args:
        a: [Ta, ...], any dtype.
        b: [Tb, ...], dtype and trailing shape of a.
        a_offsets, b_offsets: [B + 1] int32 or int64: row r holds the tokens
            a_offsets[r]:a_offsets[r + 1] of a and b_offsets[r]:b_offsets[r + 1] of b.

    Returns:
        [Ta + Tb, ...], dtype of a: [a_row ; b_row] of every row.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range; the message names it.
    """
    return torch.ops.torchrec_gr.jagged_concat(a, b, a_offsets, b_offsets)


def jagged_split(
    values: Tensor, a_offsets: Tensor, b_offsets: Tensor, *, num_a: int
) -> tuple[Tensor, Tensor]:
    """Takes rows [a_row ; b_row] apart: the inverse of `jagged_concat`, which is its gradient.

    Args:
        values: [Ta + Tb, ...], any dtype.
        a_offsets, b_offsets: [B + 1] int32 or int64, as `jagged_concat` takes them.
        num_a: Ta, which is the last of `a_offsets`; given, because reading it there would wait for
            a GPU.

    Returns:
        [Ta, ...] and [Tb, ...], dtype of values.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range; the message names it.
    """
    return torch.ops.torchrec_gr.jagged_split(values, a_offsets, b_offsets, num_a)


def concat_by_index(a: Tensor, b: Tensor, a_offsets: Tensor, b_offsets: Tensor) -> Tensor:
    """`jagged_concat` in PyTorch's ops, on any device; the host waits for nothing."""
    _check_concat(a, b, a_offsets, b_offsets)
    a_places, b_places = _places(a_offsets, b_offsets, a.shape[0], b.shape[0])
    joined = _empty_joined(a, b)
    return joined.index_copy_(0, a_places, a).index_copy_(0, b_places, b)


def split_by_index(
    values: Tensor, a_offsets: Tensor, b_offsets: Tensor, num_a: int
) -> tuple[Tensor, Tensor]:
    """`jagged_split` in PyTorch's ops, on any device; the host waits for nothing."""
    _check_split(values, a_offsets, b_offsets)
    if not 0 <= num_a <= values.shape[0]:
        raise ValueError(
            f"num_a: expected 0 to the {values.shape[0]} tokens of values, got {num_a}"
        )
    a_places, b_places = _places(a_offsets, b_offsets, num_a, values.shape[0] - num_a)
    return values.index_select(0, a_places), values.index_select(0, b_places)


def _places(a_offsets: Tensor, b_offsets: Tensor, num_a: int, num_b: int) -> tuple[Tensor, Tensor]:
    """Where the tokens of a and of b stand among the joined ones: [Ta] and [Tb] int64."""
    for name, offsets, num_tokens in (("a", a_offsets, num_a), ("b", b_offsets, num_b)):
        rises = (offsets.diff() >= 0).all() & (offsets[0] == 0) & (offsets[-1] == num_tokens)
        torch._assert_async(
            rises, f"{name}_offsets: expected to rise from 0 to the {num_tokens} tokens of {name}"
        )
    b_before = b_offsets[:-1].repeat_interleave(a_offsets.diff(), output_size=num_a)
    a_before = a_offsets[1:].repeat_interleave(b_offsets.diff(), output_size=num_b)
    device = a_offsets.device
    return (
        torch.arange(num_a, device=device) + b_before,
        torch.arange(num_b, device=device) + a_before,
    )


# CUDA has no kernel of its own. This form is checked on CPU tensors; it has not run on a GPU.
torch.library.impl("torchrec_gr::jagged_concat", "CUDA", concat_by_index)
torch.library.impl("torchrec_gr::jagged_split", "CUDA", split_by_index)


@torch.library.register_fake("torchrec_gr::jagged_concat")
def _(a: Tensor, b: Tensor, a_offsets: Tensor, b_offsets: Tensor) -> Tensor:
    _check_concat(a, b, a_offsets, b_offsets)
    return _empty_joined(a, b)


@torch.library.register_fake("torchrec_gr::jagged_split")
def _(values: Tensor, a_offsets: Tensor, b_offsets: Tensor, num_a: int) -> tuple[Tensor, Tensor]:
    _check_split(values, a_offsets, b_offsets)
    trailing = values.shape[1:]
    return (
        values.new_empty(num_a, *trailing),
        values.new_empty(values.shape[0] - num_a, *trailing),
    )


def _empty_joined(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0] + b.shape[0], *a.shape[1:])


def _check_concat(a: Tensor, b: Tensor, a_offsets: Tensor, b_offsets: Tensor) -> None:
    if a.ndim == 0:
        raise ValueError("a: expected [Ta, ...], got a tensor without axes")
    if b.ndim == 0 or b.shape[1:] != a.shape[1:]:
        raise ValueError(
            f"b: expected [Tb, ...] with the trailing shape of a, {list(a.shape[1:])}, got "
            f"{list(b.shape)}"
        )
    if b.dtype != a.dtype:
        raise ValueError(f"b: expected the dtype of a, {a.dtype}, got {b.dtype}")
    if b.device != a.device:
        raise ValueError(f"b: expected the device of a, {a.device}, got {b.device}")
    _check_offsets(a_offsets, b_offsets, a.device)


def _check_split(values: Tensor, a_offsets: Tensor, b_offsets: Tensor) -> None:
    if values.ndim == 0:
        raise ValueError("values: expected [T, ...], got a tensor without axes")
    _check_offsets(a_offsets, b_offsets, values.device)


def _check_offsets(a_offsets: Tensor, b_offsets: Tensor, device: torch.device) -> None:
    for name, offsets in (("a_offsets", a_offsets), ("b_offsets", b_offsets)):
        if offsets.ndim != 1 or offsets.shape[0] == 0 or offsets.dtype not in _INTEGERS:
            raise ValueError(
                f"{name}: expected [B + 1] int32 or int64, got {list(offsets.shape)} "
                f"{offsets.dtype}"
            )
        if offsets.device != device:
            raise ValueError(
                f"{name}: expected the device of the values, {device}, got {offsets.device}"
            )
    if a_offsets.shape != b_offsets.shape:
        raise ValueError(
            f"b_offsets: expected as many rows as a_offsets has ({a_offsets.shape[0] - 1}), got "
            f"{b_offsets.shape[0] - 1}"
        )


def _save_for_split(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    a, _, a_offsets, b_offsets = inputs
    ctx.save_for_backward(a_offsets, b_offsets)
    ctx.num_a = a.shape[0]


def _split_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    a_offsets, b_offsets = ctx.saved_tensors
    return (*jagged_split(grad, a_offsets, b_offsets, num_a=ctx.num_a), None, None)


def _save_for_concat(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, a_offsets, b_offsets, _ = inputs
    ctx.save_for_backward(a_offsets, b_offsets)


def _concat_gradients(ctx: Any, grad_a: Tensor, grad_b: Tensor) -> tuple[Tensor | None, ...]:
    return jagged_concat(grad_a, grad_b, *ctx.saved_tensors), None, None, None


torch.library.register_autograd(
    "torchrec_gr::jagged_concat", _split_gradient, setup_context=_save_for_split
)
torch.library.register_autograd(
    "torchrec_gr::jagged_split", _concat_gradients, setup_context=_save_for_concat
)
