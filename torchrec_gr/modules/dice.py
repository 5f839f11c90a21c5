"""Dice, DIN's activation: a gate at the batch's mean instead of at zero; and MLPs of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

Activation = Literal["dice", "prelu"]


class Dice(nn.Module):
    """p(s) s + (1 - p(s)) alpha s with p(s) = sigmoid((s - E[s]) / sqrt(Var[s] + eps)).

    Mean and variance are each channel's: in training those of the batch, in evaluation their
    running averages. In a step of fewer than two rows, which have no variance, training takes the
    running ones too. Rows of weight 0 are in the batch's statistics.

    Args:
        dim: channels, each with a learned alpha of its own that starts at 0.
        eps: the paper's.

    Source: Zhou et al., 1706.06978, section 5.3, equations 8 and 9.
    """

    def __init__(self, dim: int, eps: float = 1e-8) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(dim))
        self.norm: nn.Module = nn.BatchNorm1d(dim, eps=eps, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, dim] to [N, dim]."""
        gate = torch.sigmoid(self._normalised(x))
        return x * torch.addcmul(self.alpha, gate, 1 - self.alpha)

    def _normalised(self, x: Tensor) -> Tensor:
        norm = self.norm
        if not isinstance(norm, nn.BatchNorm1d) or x.shape[0] > 1:  # SyncBatchNorm sees other ranks
            normalised: Tensor = norm(x)
            return normalised
        return batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps)


def activated_mlp(in_dim: int, hidden: Sequence[int], activation: Activation) -> list[nn.Module]:
    """Linear layers, each followed by its activation.

    Args:
        in_dim: width of the input.
        hidden: widths of the layers.
        activation: "dice", or "prelu" with a slope a channel.

    Raises:
        ValueError: an unknown activation.
    """
    layers: list[nn.Module] = []
    for dim in hidden:
        layers += [nn.Linear(in_dim, dim), activation_layer(dim, activation)]
        in_dim = dim
    return layers


def activation_layer(dim: int, activation: Activation) -> nn.Module:
    """The activation of `dim` channels.

    Raises:
        ValueError: an unknown activation.
    """
    if activation == "dice":
        return Dice(dim)
    if activation == "prelu":
        return nn.PReLU(dim)
    raise ValueError(f"activation: expected 'dice' or 'prelu', got {activation!r}")
