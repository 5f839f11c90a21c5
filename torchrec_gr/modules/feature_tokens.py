"""Tokens made of features: one a scalar of a user, one for all of an event or a candidate."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class UserTokens(nn.Module):
    """A token for each scalar of the user, projected by weights of its own: [U, F + N, D].

    Args:
        num_ids, num_numbers: F scalars with an embedding, N that are numbers.
        embedding_dim: E.
        dim: D.
    """

    def __init__(self, num_ids: int, num_numbers: int, embedding_dim: int, dim: int) -> None:
        super().__init__()
        self.of_ids = nn.Parameter(torch.empty(num_ids, embedding_dim, dim))
        self.of_numbers = nn.Parameter(torch.empty(num_numbers, dim))
        self.bias = nn.Parameter(torch.empty(num_ids + num_numbers, dim))
        for weight in (self.of_ids, self.of_numbers, self.bias):
            nn.init.uniform_(weight, -(embedding_dim**-0.5), embedding_dim**-0.5)

    @property
    def num_tokens(self) -> int:
        """F + N."""
        return self.bias.shape[0]

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        """Maps [U, F, E] embeddings and [U, N] numbers to [U, F + N, D]."""
        of_ids = (ids.transpose(0, 1) @ self.of_ids).transpose(0, 1)
        of_numbers = numbers.unsqueeze(2) * self.of_numbers
        return torch.cat([of_ids, of_numbers], dim=1) + self.bias


def token_mlp(in_dim: int, dim: int) -> nn.Sequential:
    """From [T, in_dim] features side by side to [T, D] tokens."""
    return nn.Sequential(nn.Linear(in_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
