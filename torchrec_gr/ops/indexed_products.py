"""Products of vectors with rows that are read by index, such as each position's own negatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchrec_gr.ops.attention_registration import refuse_second_derivative


def indexed_products(left: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    """products[p, n] = left[p] . rows[index[p, n]], without the rows being written out.

    Once differentiable in left and rows; sums are taken in the order of the batch, whatever the
    threads. `indexed_products_reference` is its definition. On a GPU the index is not checked,
    since that would wait for the device.

    Args:
        left: [P, D] float32, on a CPU D at most 256.
        rows: [R, D] float32.
        index: [P, N] int64, places among the R rows.

    Returns:
        [P, N] float32.

    Raises:
        ValueError: an argument has the wrong shape, dtype or range; the message names it.
    """
    return torch.ops.torchrec_gr.indexed_products(left, rows, index)


@torch.library.register_fake("torchrec_gr::indexed_products")
def _(left: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    return left.new_empty(index.shape)


@torch.library.register_fake("torchrec_gr::indexed_products_backward")
def _(grad: Tensor, left: Tensor, rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(left), torch.empty_like(rows)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    backward = torch.ops.torchrec_gr.indexed_products_backward
    return *backward(grad, *ctx.saved_tensors), None


torch.library.register_autograd("torchrec_gr::indexed_products", _gradients, setup_context=_keep)
torch.library.register_autograd("torchrec_gr::indexed_products_backward", refuse_second_derivative)
