"""Dice, by the paper's equations written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from torchrec_gr.modules.dice import Dice, activated_mlp, activation_layer


def _dice() -> Dice:
    dice = Dice(3).double()
    nn.init.uniform_(dice.alpha, -0.5, 0.5)
    return dice


def _expected(x: Tensor, alpha: Tensor) -> Tensor:
    columns = []
    for channel in range(x.shape[1]):
        values = [x[row, channel] for row in range(x.shape[0])]
        mean = sum(values, torch.zeros(())) / len(values)
        variance = sum(((s - mean) ** 2 for s in values), torch.zeros(())) / len(values)
        gates = [1 / (1 + (-(s - mean) / (variance + 1e-8).sqrt()).exp()) for s in values]
        columns.append(
            torch.stack(
                [p * s + (1 - p) * alpha[channel] * s for s, p in zip(values, gates, strict=True)]
            )
        )
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("num_rows", [2, 7])
def test_values_and_gradients_are_those_of_the_paper(num_rows: int) -> None:
    torch.manual_seed(num_rows)
    dice = _dice()
    x = (3 * torch.randn(num_rows, 3, dtype=torch.float64) + 1).requires_grad_()
    weights = torch.randn(num_rows, 3, dtype=torch.float64)
    result, expected = dice(x), _expected(x, dice.alpha)
    torch.testing.assert_close(result, expected)
    of_result = torch.autograd.grad((result * weights).sum(), [x, dice.alpha])
    of_expected = torch.autograd.grad((expected * weights).sum(), [x, dice.alpha])
    torch.testing.assert_close(of_result, of_expected)


def test_in_evaluation_a_row_stands_alone() -> None:
    dice = _dice()
    for _ in range(200):
        dice(2 * torch.randn(50, 3, dtype=torch.float64) + 1)
    dice.eval()
    x = torch.randn(6, 3, dtype=torch.float64)
    torch.testing.assert_close(dice(x), torch.cat([dice(row[None]) for row in x]))
    at_the_mean = dice(torch.ones(1, 3, dtype=torch.float64))[0]
    torch.testing.assert_close(at_the_mean, 0.5 + 0.5 * dice.alpha, atol=0.1, rtol=0)


@pytest.mark.parametrize("num_rows", [0, 1])
def test_too_few_rows_for_a_variance_go_by_the_running_ones(num_rows: int) -> None:
    dice = _dice()
    dice(torch.randn(20, 3, dtype=torch.float64))
    before = {name: tensor.clone() for name, tensor in dice.state_dict().items()}
    x = torch.randn(num_rows, 3, dtype=torch.float64, requires_grad=True)
    result = dice(x)
    result.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(torch.equal(dice.state_dict()[name], tensor) for name, tensor in before.items())
    torch.testing.assert_close(result, dice.eval()(x))


def test_equal_rows_stay_finite() -> None:
    dice = Dice(2)
    x = torch.full((5, 2), math.pi, requires_grad=True)
    dice(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_every_layer_has_its_activation() -> None:
    kinds = [type(layer) for layer in activated_mlp(4, (3, 2), "dice")]
    assert kinds == [nn.Linear, Dice, nn.Linear, Dice]
    prelu = activation_layer(3, "prelu")
    assert isinstance(prelu, nn.PReLU)
    assert prelu.num_parameters == 3
    with pytest.raises(ValueError, match="expected 'dice' or 'prelu', got 'relu'"):
        activation_layer(3, "relu")  # type: ignore[arg-type]
