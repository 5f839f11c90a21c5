"""A small network for each task over the same candidates."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu


class TaskHeads(nn.Module):
    """Linear, SiLU, Linear for each task, in one product for all of them.

    Weights begin as nn.Linear's do.

    Args:
        dim: D, width of a candidate.
        num_tasks: towers, one or more.
        hidden: width of a tower.

    Raises:
        ValueError: no task.
    """

    def __init__(self, dim: int, num_tasks: int, hidden: int) -> None:
        super().__init__()
        if num_tasks < 1:
            raise ValueError(f"num_tasks: expected 1 or more, got {num_tasks}")
        self.hidden = nn.Linear(dim, num_tasks * hidden)
        self.weight = nn.Parameter(torch.empty(num_tasks, hidden))
        self.bias = nn.Parameter(torch.empty(num_tasks))
        for last in (self.weight, self.bias):
            nn.init.uniform_(last, -(hidden**-0.5), hidden**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Maps candidates [C, D] to logits [C, num_tasks]."""
        towers = silu(self.hidden(x)).unflatten(1, self.weight.shape)
        return (towers * self.weight).sum(2) + self.bias
