"""Rows of tables, which lie in chunks: read, updated and made anew.

Chunk c has at most 65,536 rows: `weights[c]`, [r, D] float32, and `states[c]`, the optimizer's:
[r, 0] for SGD, [r, D] for Adagrad, [r] for row-wise Adagrad. The slot `c << 16 | r` names row r of
it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gather_rows(
    weights: Sequence[Tensor],
    slots: Tensor,
    dim: int,
    index: Tensor | None = None,
    offsets: Tensor | None = None,
    factors: Tensor | None = None,
) -> Tensor:
    """Reads rows; with an index in that order, with offsets summed in bags.

    Has no gradient: hand that of what was read to `update_rows_`, with the same index, offsets and
    factors.

    Args:
        weights: [r, D] float32 for each chunk.
        slots: [n] int64, rows; they may repeat.
        dim: D, at least 1, which no chunk may be there to tell.
        index: [m] int64, places of slots; None: each once.
        offsets: [B + 1] int32 or int64: bag b has the places index[offsets[b]:offsets[b + 1]];
            None: each place stands alone.
        factors: [m] float32 of the places; None: 1.

    Returns:
        [n, D], [m, D] or [B, D] float32; the slot -1 reads zeros.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range; the message names it.
    """
    return torch.ops.torchrec_gr.gather_rows(weights, slots, dim, index, offsets, factors)


def update_rows_(
    weights: Sequence[Tensor],
    states: Sequence[Tensor],
    slots: Tensor,
    table_offsets: Tensor,
    grads: Tensor,
    optimizers: Sequence[str],
    lrs: Sequence[float],
    eps: Sequence[float],
    *,
    index: Tensor | None = None,
    offsets: Tensor | None = None,
    factors: Tensor | None = None,
) -> None:
    """Moves rows against their gradients, each once. Writes to `weights` and `states`.

    A row's gradients are summed in the order of the batch. Then as the fused optimizers of TorchRec
    do: with state += grad^2, or the mean of that over the row, weight -= lr * grad / (sqrt(state) +
    eps).

    Args:
        weights: [r, D] float32 for each chunk.
        states: for each chunk [r, 0] ("sgd"), [r, D] ("adagrad") or [r] ("rowwise_adagrad")
            float32.
        slots: [n] int64, rows, different from each other; -1 is skipped.
        table_offsets: [tables + 1] int64: table t's are slots[table_offsets[t]:
            table_offsets[t + 1]].
        grads: of what `gather_rows` read from the slots: [n, D], [m, D] or [B, D] float32.
        optimizers: of each table "sgd", "adagrad", "rowwise_adagrad", or "none", which leaves its
            rows as they are.
        lrs: learning rate of each table.
        eps: what Adagrad adds to the root, of each table.
        index, offsets, factors: as `gather_rows` had them.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range; the message names it.
    """
    torch.ops.torchrec_gr.update_rows_(
        weights,
        states,
        slots,
        table_offsets,
        grads,
        index,
        offsets,
        factors,
        optimizers,
        lrs,
        eps,
    )


def init_rows_(
    weights: Sequence[Tensor],
    states: Sequence[Tensor],
    slots: Tensor,
    ids: Tensor,
    seed: int,
    std: float,
) -> None:
    """Gives rows fresh values, and 0 as the optimizer's state. Writes to `weights` and `states`.

    They are normal, of mean 0. A value is a function of seed, id and column alone: an id's row
    begins alike wherever and whenever it does.

    Args:
        weights: [r, D] float32 for each chunk.
        states: [r, 0], [r, D] or [r] float32 for each chunk, not all of one kind perhaps.
        slots: [n] int64, rows, different from each other.
        ids: [n] int64, whose rows they are.
        seed: any int64.
        std: standard deviation, a finite number from 0 on.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range; the message names it.
    """
    torch.ops.torchrec_gr.init_rows_(weights, states, slots, ids, seed, std)


@torch.library.register_fake("torchrec_gr::gather_rows")
def _(
    weights: Sequence[Tensor],
    slots: Tensor,
    dim: int,
    index: Tensor | None,
    offsets: Tensor | None,
    factors: Tensor | None,
) -> Tensor:
    num = slots.shape[0] if index is None else index.shape[0]
    num = num if offsets is None else offsets.shape[0] - 1
    return slots.new_empty(num, dim, dtype=torch.float32)


@torch.library.register_fake("torchrec_gr::update_rows_")
def _(
    weights: Sequence[Tensor],
    states: Sequence[Tensor],
    slots: Tensor,
    table_offsets: Tensor,
    grads: Tensor,
    index: Tensor | None,
    offsets: Tensor | None,
    factors: Tensor | None,
    optimizers: Sequence[str],
    lrs: Sequence[float],
    eps: Sequence[float],
) -> None:
    return None


@torch.library.register_fake("torchrec_gr::init_rows_")
def _(
    weights: Sequence[Tensor],
    states: Sequence[Tensor],
    slots: Tensor,
    ids: Tensor,
    seed: int,
    std: float,
) -> None:
    return None
