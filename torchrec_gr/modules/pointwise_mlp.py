"""A small network over every token alone, onto the unit sphere."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import normalize

NORM_EPS = 1e-6


class PointwiseMLP(nn.Module):
    """Linear, GELU, Linear, divided by its length.

    Args:
        in_dim: width of a token.
        dim: D, hidden width and width of the result.

    Source: PinFM, 2507.12704, phi_in, phi_out and psi: a pointwise MLP and L2 normalisation; its
        depth and hidden width are our choice.
    """

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [..., in_dim] to unit vectors [..., D]."""
        return normalize(self.layers(x), dim=-1, eps=NORM_EPS)
