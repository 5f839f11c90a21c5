"""Events as tokens: their embeddings, scaled, with a learned vector for each place in the row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchrec_gr.modules.dropout import Dropout


class EventTokens(nn.Module):
    """dropout(embedding * sqrt(D) + position).

    Args:
        dim: D, width of embeddings and tokens.
        max_positions: places that a row may have.
        dropout: in training.

    Source: HSTU, 2402.17152, the configuration behind its public table; SASRec, 1808.09781.
    """

    def __init__(self, dim: int, max_positions: int, dropout: float) -> None:
        super().__init__()
        self.positions = nn.Embedding(max_positions, dim)
        self.dropout = Dropout(dropout)
        self.scale = dim**0.5
        std = dim**-0.5
        nn.init.trunc_normal_(self.positions.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """[T, D] of embeddings [T, D] and places [T] int64.

        Raises:
            ValueError: a place that the table does not have.
        """
        room = self.positions.num_embeddings
        if not torch.compiler.is_compiling() and positions.numel():
            last = int(positions.max())
            if last >= room:
                raise ValueError(
                    f"a history has at least {last + 1} events, and the model has places for "
                    f"{room}: cut it to its newest ones, or configure a longer max_history"
                )
        return self.dropout(embeddings * self.scale + self.positions(positions))
