"""The oracle of `pool_rows`: one place after the other."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def pool_rows_reference(
    rows: Tensor, index: Tensor, offsets: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """`pool_rows`, as its docstring says it."""
    bounds = range(len(index) + 1) if offsets is None else offsets.tolist()
    bags = []
    for begin, end in itertools.pairwise(bounds):
        bag = rows[:0].sum(0)
        for i in range(begin, end):
            bag = bag + rows[index[i]] * (1 if weights is None else weights[i])
        bags.append(bag)
    return torch.stack(bags) if bags else rows[:0]
