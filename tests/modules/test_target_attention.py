"""The activation unit, event by event, on [event, target, event - target, event * target]."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from torchrec_gr.modules.target_attention import (
    ActivationUnit,
    TargetAttention,
    rows_of,
    sum_by_row,
)

EVENT, TARGET = 5, 3
LENGTHS = [[2, 0, 3], [0, 0], [1], [0, 4, 0]]


def _attention() -> TargetAttention:
    torch.manual_seed(0)
    return TargetAttention(EVENT, TARGET, (4, 3), "prelu").double()


def _inputs(lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    torch.manual_seed(len(lengths))
    events = torch.randn(sum(lengths), EVENT, dtype=torch.float64, requires_grad=True)
    targets = torch.randn(len(lengths), TARGET, dtype=torch.float64, requires_grad=True)
    return events, targets


def _weight(unit: ActivationUnit, event: Tensor, target: Tensor) -> Tensor:
    paired = event[:TARGET]
    inputs = torch.cat([event, target, paired - target, paired * target])
    weight: Tensor = unit.rest((unit.first.weight @ inputs + unit.first.bias)[None])
    return weight.squeeze()


def _expected(
    attention: TargetAttention, events: Tensor, targets: Tensor, lengths: Sequence[int]
) -> Tensor:
    rows = []
    bounds = itertools.pairwise([0, *itertools.accumulate(lengths)])
    for target, (begin, end) in zip(targets, bounds, strict=True):
        interest = torch.zeros(EVENT, dtype=torch.float64)
        for event in events[begin:end]:
            interest = interest + _weight(attention.unit, event, target) * event
        rows.append(interest)
    return torch.stack(rows)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_values_and_gradients_are_those_of_a_loop(lengths: list[int]) -> None:
    attention = _attention()
    events, targets = _inputs(lengths)
    result = attention(events, targets, rows_of(torch.tensor(lengths), sum(lengths)))
    expected = _expected(attention, events, targets, lengths)
    torch.testing.assert_close(result, expected)
    if not sum(lengths):
        assert not result.any()
        return
    inputs = [events, targets, *attention.parameters()]
    upstream = torch.randn_like(result)
    torch.testing.assert_close(
        torch.autograd.grad(result, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
    )


def test_no_events_at_all_train() -> None:
    events, targets = _inputs([0, 0])
    attention = TargetAttention(EVENT, TARGET, (4, 3), "dice").double()
    attention(events, targets, rows_of(torch.zeros(2, dtype=torch.int32), 0)).sum().backward()
    gradients = [weight.grad for weight in attention.parameters()]
    assert all(grad is not None and not grad.any() for grad in gradients)


def test_weights_are_not_normalised() -> None:
    attention = _attention()
    events, targets = _inputs([2])
    once = attention(events, targets, torch.tensor([0, 0]))
    twice = attention(torch.cat([events, events]), targets, torch.tensor([0, 0, 0, 0]))
    torch.testing.assert_close(twice, 2 * once)


def test_sums_go_to_their_rows() -> None:
    values = torch.tensor([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])
    rows = rows_of(torch.tensor([0, 2, 0, 1]), 3)
    assert rows.tolist() == [1, 1, 3]
    assert sum_by_row(values, rows, 4).tolist() == [[0, 0], [11, 22], [0, 0], [100, 200]]


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(ValueError, match="got target_dim=4, event_dim=3"):
        ActivationUnit(3, 4, (2,), "dice")
    with pytest.raises(ValueError, match=r"a hidden layer, got .* hidden=\(\)"):
        ActivationUnit(3, 3, (), "dice")
    assert isinstance(ActivationUnit(3, 3, (2,), "dice").rest[-1], nn.Linear)
