"""Rotary position embedding (RoPE)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RotaryEmbedding(nn.Module):
    """Turns queries and keys by angles that grow with position: scores see only the distance.

    Args:
        width: A, of a head; even.
        theta: base of the wavelengths.

    Raises:
        ValueError: an odd width.

    Source: RoFormer, Su et al., 2104.09864, equations 14 and 15; the pairs are neighbours.
    """

    frequencies: Tensor

    def __init__(self, width: int, theta: float = 1e4) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"width: rotary embedding needs an even head width, got {width}")
        exponents = torch.arange(0, width, 2, dtype=torch.float32) / width
        self.register_buffer("frequencies", theta**-exponents, persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        """The rotations of tokens at positions [T], for `rotate`: [T, 1, A / 2] complex64."""
        angles = (positions.unsqueeze(1) * self.frequencies).unsqueeze(1)
        return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turns every pair (x[2a], x[2a + 1]) of x [T, H, A] by rotation [T, 1, A / 2]; dtype of x."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)
