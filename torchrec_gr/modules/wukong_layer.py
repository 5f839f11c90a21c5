"""A layer of Wukong: factorization machines and linear compression, stacked side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FactorizationMachineBlock(nn.Module):
    """reshape(MLP(LayerNorm(flatten(X X^T Y)))): dot products of all pairs, mixed to embeddings.

    Args:
        num_in: n, embeddings of the input.
        num_out: embeddings of the output.
        dim: width of both.
        rank: k, columns of the learned Y [n, k], which the n dot products of each embedding are
            projected to; X (X^T Y) takes O(n k dim), not O(n^2 dim).
        hidden: widths of the MLP.

    Source: Zhang et al., 2403.02545, sections 3.3 and 3.4. There Y may be made from the input; here
        it is learned.
    """

    def __init__(
        self, num_in: int, num_out: int, dim: int, rank: int, hidden: Sequence[int]
    ) -> None:
        super().__init__()
        self.num_out = num_out
        self.projection = nn.Parameter(torch.randn(num_in, rank) * num_in**-0.5)
        self.norm = nn.LayerNorm(num_in * rank)
        self.mlp = nn.Sequential()
        width = num_in * rank
        for size in hidden:
            self.mlp.append(nn.Linear(width, size)).append(nn.ReLU())
            width = size
        self.mlp.append(nn.Linear(width, num_out * dim))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, num_in, dim] to [B, num_out, dim]."""
        products = x @ (x.transpose(1, 2) @ self.projection)
        mixed: Tensor = self.mlp(self.norm(products.flatten(1)))
        return mixed.unflatten(1, (self.num_out, -1))


class LinearCompressBlock(nn.Module):
    """W X: weighted sums of the embeddings, which keep the orders that are there.

    Args:
        num_in, num_out: embeddings of the input and the output.

    Source: Zhang et al., 2403.02545, section 3.5.
    """

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_out, num_in) * num_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, num_in, dim] to [B, num_out, dim]."""
        return self.weight @ x


class WukongLayer(nn.Module):
    """LayerNorm([factorization machines ; linear compression] + X).

    Where the number of embeddings changes, X comes through a linear map over them.

    Args:
        num_in: embeddings of the input.
        num_fmb, num_lcb: embeddings of the factorization machine and of the linear block, the
            output's together.
        dim: width of all.
        rank, hidden: of the factorization machine.

    Source: Zhang et al., 2403.02545, section 3.2.
    """

    def __init__(
        self,
        num_in: int,
        num_fmb: int,
        num_lcb: int,
        dim: int,
        rank: int,
        hidden: Sequence[int],
    ) -> None:
        super().__init__()
        num_out = num_fmb + num_lcb
        self.fmb = FactorizationMachineBlock(num_in, num_fmb, dim, rank, hidden)
        self.lcb = LinearCompressBlock(num_in, num_lcb)
        self.residual = nn.Identity() if num_in == num_out else LinearCompressBlock(num_in, num_out)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, num_in, dim] to [B, num_fmb + num_lcb, dim]."""
        interacted = torch.cat([self.fmb(x), self.lcb(x)], dim=1)
        output: Tensor = self.norm(interacted + self.residual(x))
        return output
