"""Rows of tables read, updated and made anew, as it is defined."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from torchrec_gr.ops.mix_reference import hash_id


def gather_rows_reference(weights: Sequence[Tensor], slots: Tensor, dim: int) -> Tensor:
    """The oracle of `gather_rows`: row by row."""
    rows = [torch.zeros(dim) if s == -1 else weights[s >> 16][s & 0xFFFF] for s in slots.tolist()]
    return torch.stack(rows) if rows else torch.zeros(0, dim)


def update_rows_reference(
    weights: Sequence[Tensor],
    states: Sequence[Tensor],
    slots: Tensor,
    grads: Tensor,
    optimizer: str,
    lr: float,
    eps: float,
) -> None:
    """The oracle of `update_rows_`: row by row."""
    for slot, grad in zip(slots.tolist(), grads, strict=True):
        if slot == -1:
            continue
        weight, state = weights[slot >> 16][slot & 0xFFFF], states[slot >> 16][slot & 0xFFFF]
        if optimizer == "sgd":
            weight -= lr * grad
        else:
            state += grad.square() if optimizer == "adagrad" else grad.square().mean()
            weight -= lr * grad / (state.sqrt() + eps)


def initial_values(id_: int, dim: int, seed: int, std: float) -> list[float]:
    """The values that `init_rows_` gives a row."""
    values: list[float] = []
    for pair in range(-(-dim // 2)):
        bits = hash_id(pair, hash_id(id_, seed))
        words = [word - 2**32 if word >= 2**31 else word for word in (bits >> 32, bits % 2**32)]
        radius = std * math.sqrt(-2 * math.log((words[0] % 2**31 | 1) / 2**31))
        angle = math.pi * words[1] / 2**31
        values += [radius * math.cos(angle), radius * math.sin(angle)]
    return values[:dim]
