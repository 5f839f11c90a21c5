"""The norm against an nn.LayerNorm for each group, values and every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchrec_gr.modules import group_layer_norm
from torchrec_gr.modules.group_layer_norm import GroupLayerNorm

DIM = 6


def _norm(num_groups: int, dtype: torch.dtype = torch.float64) -> GroupLayerNorm:
    norm = GroupLayerNorm(DIM, num_groups, eps=1e-3).to(dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def _by_definition(norm: GroupLayerNorm, x: Tensor, groups: Tensor) -> Tensor:
    """Token by token, each through the nn.LayerNorm of its group."""
    layers = [nn.LayerNorm(DIM, eps=norm.eps).to(x.dtype) for _ in norm.weight]
    parameters = [{"weight": w, "bias": b} for w, b in zip(norm.weight, norm.bias, strict=True)]
    rows = [
        torch.func.functional_call(layers[g], parameters[g], row)
        for row, g in zip(x, groups.tolist(), strict=True)
    ]
    return torch.stack(rows) if rows else x


@pytest.mark.parametrize("num_groups", [1, 2, 4])
@pytest.mark.parametrize("num_tokens", [0, 1, 63])
@pytest.mark.parametrize("piece", [1, 5 * DIM, 2**19])
def test_is_a_layer_norm_for_each_group(
    num_groups: int, num_tokens: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_layer_norm, "_PIECE", piece)
    torch.manual_seed(num_tokens)
    norm = _norm(num_groups)
    x = torch.randn(num_tokens, DIM, dtype=torch.float64, requires_grad=True)
    groups = torch.randint(num_groups, (num_tokens,))
    ours, theirs = norm(x, groups), _by_definition(norm, x, groups)
    torch.testing.assert_close(ours, theirs)
    inputs, weights = [x, norm.weight, norm.bias], torch.randn_like(ours)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((theirs * weights).sum(), inputs, materialize_grads=True),
    )


def test_strides_of_tokens_and_gradients_do_not_matter() -> None:
    norm = _norm(3)
    x = torch.randn(DIM, 12, dtype=torch.float64).t().requires_grad_()
    groups = torch.arange(12) % 3
    ours, theirs = norm(x, groups).sum(), _by_definition(norm, x, groups).sum()
    inputs = [x, norm.weight, norm.bias]
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs)
    )


def test_one_group_of_all_is_an_ordinary_layer_norm() -> None:
    norm, plain = GroupLayerNorm(DIM, 1), nn.LayerNorm(DIM)
    x = torch.randn(9, DIM) * 3 + 1
    assert torch.equal(norm(x, torch.zeros(9, dtype=torch.int64)), plain(x))


def test_a_group_without_tokens_has_a_zero_gradient() -> None:
    norm = _norm(3)
    norm(torch.randn(4, DIM, dtype=torch.float64), torch.tensor([0, 2, 2, 0])).sum().backward()
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    assert not norm.weight.grad[1].any()
    torch.testing.assert_close(norm.bias.grad[:, 0], torch.tensor([2, 0, 2], dtype=torch.float64))


def test_frozen_scales_leave_the_tokens_gradient_as_it_is() -> None:
    norm, groups = _norm(2), torch.tensor([1, 0, 1])
    x = torch.randn(3, DIM, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(norm(x, groups).square().sum(), [x])
    norm.requires_grad_(False)
    norm(x, groups).square().sum().backward()
    torch.testing.assert_close(x.grad, expected)
    assert norm.weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_gives_what_a_layer_norm_gives(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm, plain = GroupLayerNorm(DIM, 1), nn.LayerNorm(DIM)
    x = (torch.randn(40, DIM) + 100).to(dtype).requires_grad_()
    weights = torch.randn(40, DIM)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = norm(x, torch.zeros(40, dtype=torch.int64)), plain(x)
    assert ours.dtype == theirs.dtype
    assert torch.equal(ours, theirs)
    gradients = torch.autograd.grad((ours * weights).sum(), [x, norm.weight, norm.bias])
    of_x, of_weight, of_bias = torch.autograd.grad(
        (theirs * weights).sum(), [x, plain.weight, plain.bias]
    )
    torch.testing.assert_close(gradients, (of_x, of_weight[None], of_bias[None]))


def test_refuses_what_does_not_fit() -> None:
    norm, x = GroupLayerNorm(DIM, 2), torch.randn(3, DIM)
    with pytest.raises(ValueError, match=r"groups: expected integers in \[0, 2\), got -1 to 2"):
        norm(x, torch.tensor([-1, 2, 0]))
    with pytest.raises(ValueError, match=r"groups: expected one a token, \[3\]; got \[2\]"):
        norm(x, torch.tensor([1, 0]))
    with pytest.raises(ValueError, match=r"x: expected tokens \[T, 6\], got \[3, 7\]"):
        norm(torch.randn(3, 7), torch.tensor([1, 0, 1]))
    with pytest.raises(ValueError, match="num_groups: expected 1 or more, got 0"):
        GroupLayerNorm(DIM, 0)
