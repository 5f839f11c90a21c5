"""Layer norm with a scale and a shift of its own for each group of tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import layer_norm

_PIECE = 2**19
"""Elements that are normalised at a time on CPU, so that they stay in its cache."""


class GroupLayerNorm(nn.Module):
    """Layer norm whose scale and shift belong to the token's group.

    Under torch.autocast the result has the dtype that nn.LayerNorm's has there; statistics are at
    least float32. Once differentiable. On a GPU it waits for the device, to find each group's
    tokens.

    Args:
        dim: D, width of a token.
        num_groups: G, one or more.
        eps: added to the variance.

    Raises:
        ValueError: no group.

    Source: MTGR, 2505.18654, group layer normalisation.
    """

    def __init__(self, dim: int, num_groups: int, eps: float = 1e-5) -> None:
        super().__init__()
        if num_groups < 1:
            raise ValueError(f"num_groups: expected 1 or more, got {num_groups}")
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_groups, dim))
        self.bias = nn.Parameter(torch.zeros(num_groups, dim))

    def forward(self, x: Tensor, groups: Tensor) -> Tensor:
        """Normalises tokens.

        Args:
            x: [T, D] float.
            groups: [T] integers in [0, G).

        Returns:
            [T, D].

        Raises:
            ValueError: x or groups do not fit.
        """
        dim = self.weight.shape[1]
        if x.ndim != 2 or x.shape[1] != dim:
            raise ValueError(f"x: expected tokens [T, {dim}], got {list(x.shape)}")
        if groups.shape != x.shape[:1]:
            raise ValueError(
                f"groups: expected one a token, [{x.shape[0]}]; got {list(groups.shape)}"
            )
        x = x.to(layer_norm(x[:0], (dim,)).dtype)  # autocast's choice
        return _GroupLayerNorm.apply(x, groups, self.weight, self.bias, self.eps)


class _Piece(NamedTuple):
    """Tokens of one group.

    Args:
        group: whose scale and shift they have.
        rows: [N] int64, their places.
        mean, rstd: [N, 1], their statistics.
    """

    group: int
    rows: Tensor
    mean: Tensor
    rstd: Tensor


class _GroupLayerNorm(torch.autograd.Function):
    """Calls torch's kernels on the tokens of one group at a time.

    Autograd's own way, `layer_norm(x) * weight[groups] + bias[groups]`, makes tensors of all
    tokens' scales and shifts, forward and backward, and takes several times as long.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, groups: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        output, pieces = torch.empty_like(x), []
        for group, rows in _rows_of_groups(groups, *weight.shape):
            part, mean, rstd = torch.native_layer_norm(
                x.index_select(0, rows), x.shape[1:], weight[group], bias[group], eps
            )
            output.index_copy_(0, rows, part)
            pieces.append(_Piece(group, rows, mean, rstd))
        ctx.save_for_backward(x, weight, bias)
        ctx.pieces = pieces
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        of_x = torch.empty_like(x)
        of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for group, rows, mean, rstd in ctx.pieces:
            part, of_scale, of_shift = torch.ops.aten.native_layer_norm_backward(
                grad.index_select(0, rows),
                x.index_select(0, rows),
                x.shape[1:],
                mean,
                rstd,
                weight[group],
                bias[group],
                [True, True, True],
            )
            of_x.index_copy_(0, rows, part)
            of_weight[group] += of_scale
            of_bias[group] += of_shift
        return of_x, None, of_weight, of_bias, None


def _rows_of_groups(groups: Tensor, num_groups: int, dim: int) -> list[tuple[int, Tensor]]:
    """The places of each group's tokens, in pieces that fit the cache.

    Raises:
        ValueError: a token's group is not in [0, num_groups).
    """
    rows = [(groups == group).nonzero().squeeze(1) for group in range(num_groups)]
    if sum(map(len, rows)) != len(groups):
        raise ValueError(
            f"groups: expected integers in [0, {num_groups}), got "
            f"{int(groups.min())} to {int(groups.max())}"
        )
    size = max(1, _PIECE // max(1, dim)) if groups.device.type == "cpu" else max(1, len(groups))
    return [(group, part) for group, r in enumerate(rows) if len(r) for part in r.split(size)]
