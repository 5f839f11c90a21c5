"""Two jagged tensors joined row by row, and split again, as it is defined."""

from __future__ import annotations

import torch
from torch import Tensor


def jagged_concat_reference(a: Tensor, b: Tensor, a_offsets: Tensor, b_offsets: Tensor) -> Tensor:
    """The oracle of `jagged_concat`: slices of rows, one after the other."""
    a_bounds, b_bounds = a_offsets.tolist(), b_offsets.tolist()
    pieces = [a[:0]]
    for row in range(len(a_bounds) - 1):
        pieces.append(a[a_bounds[row] : a_bounds[row + 1]])
        pieces.append(b[b_bounds[row] : b_bounds[row + 1]])
    return torch.cat(pieces)


def jagged_split_reference(
    values: Tensor, a_offsets: Tensor, b_offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """The oracle of `jagged_split`: slices of rows, one after the other."""
    a_bounds, b_bounds = a_offsets.tolist(), b_offsets.tolist()
    a_pieces, b_pieces = [values[:0]], [values[:0]]
    for row in range(len(a_bounds) - 1):
        first, middle = a_bounds[row] + b_bounds[row], a_bounds[row + 1] + b_bounds[row]
        a_pieces.append(values[first:middle])
        b_pieces.append(values[middle : a_bounds[row + 1] + b_bounds[row + 1]])
    return torch.cat(a_pieces), torch.cat(b_pieces)
