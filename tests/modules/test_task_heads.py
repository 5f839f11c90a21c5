"""The heads against a tower of its own for each task."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchrec_gr.modules.task_heads import TaskHeads

DIM, HIDDEN = 6, 5


def _towers(heads: TaskHeads) -> list[nn.Sequential]:
    """A network a task, of the heads' weights."""
    towers = []
    for task, (weight, bias) in enumerate(zip(heads.weight, heads.bias, strict=True)):
        rows = slice(task * HIDDEN, (task + 1) * HIDDEN)
        tower = nn.Sequential(nn.Linear(DIM, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 1)).double()
        with torch.no_grad():
            tower[0].weight.copy_(heads.hidden.weight[rows])
            tower[0].bias.copy_(heads.hidden.bias[rows])
            tower[2].weight.copy_(weight[None])
            tower[2].bias.copy_(bias)
        towers.append(tower)
    return towers


@pytest.mark.parametrize("num_tasks", [1, 2, 3])
@pytest.mark.parametrize("num_candidates", [0, 1, 17])
def test_is_a_tower_a_task(num_tasks: int, num_candidates: int) -> None:
    torch.manual_seed(0)
    heads = TaskHeads(DIM, num_tasks, HIDDEN).double()
    towers = _towers(heads)
    x = torch.randn(num_candidates, DIM, dtype=torch.float64, requires_grad=True)
    ours, theirs = heads(x), torch.cat([tower(x) for tower in towers], dim=1)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn_like(ours)
    inputs = [x, heads.hidden.weight, heads.hidden.bias, heads.weight, heads.bias]
    gradients = torch.autograd.grad((ours * weights).sum(), inputs)
    (theirs * weights).sum().backward()
    first, last = [tower[0] for tower in towers], [tower[2] for tower in towers]
    expected = (
        x.grad,
        torch.cat([layer.weight.grad for layer in first]),
        torch.cat([layer.bias.grad for layer in first]),
        torch.cat([layer.weight.grad for layer in last]),
        torch.cat([layer.bias.grad for layer in last]),
    )
    torch.testing.assert_close(gradients, expected)


def test_weights_begin_as_those_of_a_tower_do() -> None:
    torch.manual_seed(0)
    heads = TaskHeads(dim=64, num_tasks=3, hidden=400)
    for last, bound in ((heads.weight, 400**-0.5), (heads.hidden.weight, 64**-0.5)):
        assert last.abs().max() <= bound
        assert last.detach().std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_needs_a_task() -> None:
    with pytest.raises(ValueError, match="num_tasks: expected 1 or more, got 0"):
        TaskHeads(DIM, 0, HIDDEN)
