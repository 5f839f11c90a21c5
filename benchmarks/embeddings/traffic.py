"""The ids that the benchmarks of tables read: few are met often, most seldom."""

from __future__ import annotations

import torch
from torch import Tensor

DRAWN = "Zipf traffic: the id of popularity rank r is met in proportion to 1 / r"

_SCATTER = -7046029254386353131  # odd, so that multiplying by it is a bijection of 64 bits


def zipf_ranks(num: int, num_ids: int, generator: torch.Generator) -> Tensor:
    """[num] int64 popularity ranks from 0 to num_ids - 1."""
    drawn = torch.rand(num, generator=generator, dtype=torch.float64)
    return ((num_ids + 1.0) ** drawn).long().sub_(1).clamp_(0, num_ids - 1)


def scatter_rows(ranks: Tensor, num_rows: int) -> Tensor:
    """[n] int64: a row of its own, anywhere in a table, for each popularity rank.

    Raises:
        ValueError: `num_rows` is no power of two.
    """
    if num_rows & (num_rows - 1):
        raise ValueError(f"num_rows must be a power of two, got {num_rows}")
    return (ranks * _SCATTER) & (num_rows - 1)


def raw_ids(numbers: Tensor) -> Tensor:
    """[n] int64: a different id, of any sign and size, for each number."""
    return (numbers + 1) * _SCATTER
