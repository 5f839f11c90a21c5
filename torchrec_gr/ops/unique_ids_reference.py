"""The different ids of a batch, as they are defined."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def unique_ids_reference(
    ids: Tensor, offsets: Tensor, counts: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The oracle of `unique_ids`: a dictionary for each table."""
    values, bounds = ids.tolist(), offsets.tolist()
    times = [1] * len(values) if counts is None else counts.tolist()
    unique: list[int] = []
    sums: list[int] = []
    inverse, unique_offsets = [], [0]
    for begin, end in itertools.pairwise(bounds):
        numbers: dict[int, int] = {}
        for id_, count in zip(values[begin:end], times[begin:end], strict=True):
            if id_ not in numbers:
                numbers[id_] = len(unique)
                unique.append(id_)
                sums.append(0)
            inverse.append(numbers[id_])
            sums[numbers[id_]] += count
        unique_offsets.append(len(unique))
    return (
        torch.tensor(unique, dtype=torch.int64),
        torch.tensor(unique_offsets),
        torch.tensor(inverse, dtype=torch.int64),
        torch.tensor(sums, dtype=torch.int64),
    )
