"""Rows of tables, which lie in chunks: read, updated and made anew.

Chunk c has at most 65,536 rows, weights[c] [r, D] float32 and states[c], the optimizer's: [r, 0]
for SGD, [r, D] for Adagrad, [r] for row-wise Adagrad. The slot `c << 16 | r` names row r of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gather_rows(weights: Sequence[Tensor], slots: Tensor, dim: int) -> Tensor:
    """Reads rows. Has no gradient: hand that of the rows to `update_rows_`.

    Args:
        weights: [r, D] float32 for each chunk.
        slots: [n] int64, rows; they may repeat.
        dim: D, which no chunk may be there to tell.

    Returns:
        [n, D] float32, zeros for the slot -1.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range; the message names it.
    """
    return torch.ops.torchrec_gr.gather_rows(weights, slots, dim)


def update_rows_(
    weights: Sequence[Tensor],
    states: Sequence[Tensor],
    slots: Tensor,
    grads: Tensor,
    optimizer: str,
    lr: float,
    eps: float,
) -> None:
    """Moves rows against their gradients. Writes to `weights` and `states`.

    As the fused optimizers of TorchRec do: with state += grad^2, or the mean of that over the row,
    weight -= lr * grad / (sqrt(state) + eps).

    Args:
        weights: [r, D] float32 for each chunk.
        states: for each chunk [r, 0] ("sgd"), [r, D] ("adagrad") or [r] ("rowwise_adagrad")
            float32. Chunks in which there are no rows to move may have another optimizer's.
        slots: [n] int64, rows, different from each other; -1 is skipped.
        grads: [n, D] float32.
        optimizer: "sgd", "adagrad" or "rowwise_adagrad".
        lr: learning rate.
        eps: what Adagrad adds to the root.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range; the message names it.
    """
    torch.ops.torchrec_gr.update_rows_(weights, states, slots, grads, optimizer, lr, eps)


def init_rows_(
    weights: Sequence[Tensor],
    states: Sequence[Tensor],
    slots: Tensor,
    ids: Tensor,
    seed: int,
    distribution: str,
    scale: float,
) -> None:
    """Gives rows fresh values, and 0 as the optimizer's state. Writes to `weights` and `states`.

    A value is a function of seed, id and column alone: an id's row begins alike wherever and
    whenever it does.

    Args:
        weights: [r, D] float32 for each chunk.
        states: [r, 0], [r, D] or [r] float32 for each chunk, not all of one kind perhaps.
        slots: [n] int64, rows, different from each other.
        ids: [n] int64, whose rows they are.
        seed: any int64.
        distribution: "uniform", from -scale to below scale, or "normal", of mean 0 and standard
            deviation scale.
        scale: a finite number from 0 on.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range; the message names it.
    """
    torch.ops.torchrec_gr.init_rows_(weights, states, slots, ids, seed, distribution, scale)


@torch.library.register_fake("torchrec_gr::gather_rows")
def _(weights: Sequence[Tensor], slots: Tensor, dim: int) -> Tensor:
    return slots.new_empty(slots.shape[0], dim, dtype=torch.float32)


@torch.library.register_fake("torchrec_gr::update_rows_")
def _(
    weights: Sequence[Tensor],
    states: Sequence[Tensor],
    slots: Tensor,
    grads: Tensor,
    optimizer: str,
    lr: float,
    eps: float,
) -> None:
    return None


@torch.library.register_fake("torchrec_gr::init_rows_")
def _(
    weights: Sequence[Tensor],
    states: Sequence[Tensor],
    slots: Tensor,
    ids: Tensor,
    seed: int,
    distribution: str,
    scale: float,
) -> None:
    return None
