"""Rows read by index, each alone or pooled in bags, with a gradient summed once for each row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def pool_rows(
    rows: Tensor, index: Tensor, offsets: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Reads rows by index; with offsets, sums them in bags.

    Its gradient is one sum for each row, taken in the order of the batch whatever the threads.
    Weights get none. On the CPU alone.

    Args:
        rows: [R, D] float32.
        index: [n] int64, places of rows.
        offsets: [B + 1] int32 or int64: bag b has the places index[offsets[b]:offsets[b + 1]];
            None: each place stands alone.
        weights: [n] float32: each place's factor; None: 1.

    Returns:
        [B, D] or [n, D] float32.

    Raises:
        ValueError: an argument has the wrong shape, dtype or range; the message names it.
    """
    return torch.ops.torchrec_gr.pool_rows(rows, index, offsets, weights)


def sum_rows(
    grad: Tensor,
    index: Tensor,
    offsets: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    num_rows: int,
) -> Tensor:
    """Sums for each row what came from its places: the gradient of `pool_rows`.

    Args:
        grad: [B, D] or [n, D] float32, the shape of what `pool_rows` gives.
        index, offsets, weights: as there.
        num_rows: R.

    Returns:
        [R, D] float32, zeros for a row without places.

    Raises:
        ValueError: an argument has the wrong shape, dtype or range; the message names it.
    """
    return torch.ops.torchrec_gr.sum_rows(grad, index, offsets, weights, num_rows)


@torch.library.register_fake("torchrec_gr::pool_rows")
def _(rows: Tensor, index: Tensor, offsets: Tensor | None, weights: Tensor | None) -> Tensor:
    num_bags = index.shape[0] if offsets is None else offsets.shape[0] - 1
    return rows.new_empty(num_bags, rows.shape[1])


@torch.library.register_fake("torchrec_gr::sum_rows")
def _(
    grad: Tensor, index: Tensor, offsets: Tensor | None, weights: Tensor | None, num_rows: int
) -> Tensor:
    return grad.new_empty(num_rows, grad.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, *others = inputs
    ctx.save_for_backward(*others)
    ctx.num_rows = rows.shape[0]


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return sum_rows(grad, *ctx.saved_tensors, num_rows=ctx.num_rows), None, None, None


def _keep_sum(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:4])


def _gradient_of_sum(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
    return pool_rows(grad, *ctx.saved_tensors), None, None, None, None


torch.library.register_autograd("torchrec_gr::pool_rows", _gradient, setup_context=_keep)
torch.library.register_autograd("torchrec_gr::sum_rows", _gradient_of_sum, setup_context=_keep_sum)
