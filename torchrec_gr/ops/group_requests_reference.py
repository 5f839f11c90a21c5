"""Deduplication, as it is defined."""

from __future__ import annotations

import torch
from torch import Tensor


def group_requests_reference(values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The oracle of `group_requests`: a dictionary of rows."""
    tokens = values.unsqueeze(1) if values.ndim == 1 else values
    bounds = offsets.tolist()
    groups: dict[tuple[tuple[int, ...], ...], int] = {}
    requests, inverse = [], []
    for row in range(len(bounds) - 1):
        ids = tuple(map(tuple, tokens[bounds[row] : bounds[row + 1]].tolist()))
        if ids not in groups:
            groups[ids] = len(groups)
            requests.append(row)
        inverse.append(groups[ids])
    return torch.tensor(requests, dtype=torch.int64), torch.tensor(inverse, dtype=torch.int64)
