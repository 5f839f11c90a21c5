"""The losses on the module's head against loops over their definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from torchrec_gr.modules.ranking_loss import RankingLoss
from torchrec_gr.pretrained.tuning.pinfm_tuning import PinFMTuning
from torchrec_gr.pretrained.tuning.tuned_ranker import TunedLoss
from torchrec_gr.pretrained.tuning.tuning_objective import TuningTap

DIM = 6
WEIGHTS = {"all": [1, 1, 1, 1, 1], "filled": [1, 1, 1, 0, 0], "one": [0, 0, 1, 0, 0]}
WEIGHTS |= {"none": [0, 0, 0, 0, 0], "uneven": [0.5, 2, 1, 0, 3]}


class Case:
    """Logits of a ranker and vectors of a module, as a step has them."""

    def __init__(self, weights: str, num_tasks: int = 1, **tuning: float) -> None:
        torch.manual_seed(2)
        self.tap = TuningTap()
        self.loss = TunedLoss(PinFMTuning(**tuning), self.tap, DIM, num_tasks)  # type: ignore[arg-type]
        self.weights = torch.tensor(WEIGHTS[weights], dtype=torch.float32)
        self.vectors = torch.randn(5, DIM, requires_grad=True)
        self.logits = torch.randn(5, num_tasks, requires_grad=True)
        self.labels = torch.randint(2, (5, num_tasks)).float()

    def forward(self, auxiliary: Tensor | None = None) -> tuple[Tensor, Any]:
        self.tap.put(self.vectors, auxiliary)
        logits, labels = self.logits, self.labels
        if logits.shape[1] == 1:
            logits, labels = logits.squeeze(1), labels.squeeze(1)
        return self.loss(logits, labels, self.weights)

    def plain(self) -> tuple[Tensor, Any]:
        return RankingLoss()(self.logits, self.labels, self.weights)

    def gradients(self, loss: Tensor) -> list[Tensor]:
        of = [self.vectors, self.logits, *self.loss.parameters()]
        found = torch.autograd.grad(loss, of, allow_unused=True)
        return [
            torch.zeros_like(weight) if gradient is None else gradient
            for weight, gradient in zip(of, found, strict=True)
        ]


def expected(case: Case, ranking: float, agreement: float) -> Tensor:
    """The whole loss, row by row and task by task."""
    terms = [case.vectors.sum() * 0]
    assert case.loss.head is not None
    for row, weight in enumerate(case.weights.tolist()):
        own = case.loss.head(case.vectors[row])
        for task in range(case.logits.shape[1]):
            of_ranker = 1 / (1 + (-case.logits[row, task]).exp())
            of_head = 1 / (1 + (-own[task]).exp())
            clicked = case.labels[row, task] == 1
            term = -(of_ranker if clicked else 1 - of_ranker).log()
            term = term - ranking * (of_head if clicked else 1 - of_head).log()
            term = term + agreement * (of_head - of_ranker.item()) ** 2
            terms.append(weight * term)
    count = sum(case.weights.tolist()) * case.logits.shape[1]
    return torch.stack(terms).sum() / (count or 1)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("num_tasks", [1, 3])
@pytest.mark.parametrize(("ranking", "agreement"), [(0.4, 0.0), (0.0, 2.0), (0.4, 2.0)])
def test_losses_are_their_definitions(
    weights: str, num_tasks: int, ranking: float, agreement: float
) -> None:
    case = Case(weights, num_tasks, ranking_weight=ranking, agreement_weight=agreement)
    loss, output = case.forward()
    theirs = expected(case, ranking, agreement)
    torch.testing.assert_close(loss, theirs)
    for ours, other in zip(case.gradients(loss), case.gradients(theirs), strict=True):
        torch.testing.assert_close(ours, other, atol=1e-6, rtol=1e-5)
    own, reported = case.plain()
    for ours, other in zip(output, reported, strict=True):
        assert torch.equal(ours, other)
    if weights != "none":
        assert loss > own


def test_the_ranker_is_not_drawn_towards_the_module() -> None:
    case = Case("all", ranking_weight=1.0, agreement_weight=5.0)
    _, logits, *_ = case.gradients(case.forward()[0])
    _, alone, *_ = case.gradients(case.plain()[0])
    torch.testing.assert_close(logits, alone)


def test_padding_counts_nowhere() -> None:
    case = Case("filled", ranking_weight=1.0, agreement_weight=1.0)
    loss, _ = case.forward()
    before = case.gradients(loss)
    with torch.no_grad():
        case.vectors[3:] *= 100
        case.logits[3:] = 7
        case.labels[3:] = 1 - case.labels[3:]
    again, _ = case.forward()
    assert torch.equal(again, loss)
    for ours, other in zip(case.gradients(again), before, strict=True):
        assert torch.equal(ours, other)
    assert not before[0][3:].any()


def test_weights_of_zero_change_no_bit() -> None:
    case = Case("uneven", 3)
    assert not list(case.loss.parameters())
    loss, _ = case.forward()
    plain, _ = case.plain()
    assert torch.equal(loss, plain)
    for ours, other in zip(case.gradients(loss), case.gradients(plain), strict=True):
        assert torch.equal(ours, other)


def test_the_modules_own_loss_is_added() -> None:
    case = Case("all", ranking_weight=0.5)
    alone, _ = case.forward()
    auxiliary = case.vectors.square().sum()
    loss, output = case.forward(auxiliary)
    assert torch.equal(loss, alone + auxiliary)
    assert output.loss_sum == case.plain()[1].loss_sum


def test_evaluation_is_the_rankers_own() -> None:
    case = Case("filled", ranking_weight=0.5, agreement_weight=0.5)
    case.loss.eval()
    loss, output = case.loss(case.logits, case.labels, case.weights)  # nothing was tapped
    assert torch.equal(loss, case.plain()[0])
    assert output.logits is not None
    loss, output = case.loss(case.logits, None, None)
    assert loss == 0
    assert output.labels is None


def test_training_without_the_module_is_an_error() -> None:
    case = Case("all", ranking_weight=0.5)
    with pytest.raises(RuntimeError, match="gave no vectors in this step"):
        case.loss(case.logits, case.labels, case.weights)


def test_bf16_logits_and_vectors() -> None:
    case = Case("all", ranking_weight=1.0, agreement_weight=1.0)
    exact, _ = case.forward()
    case.tap.put(case.vectors.bfloat16(), None)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = case.loss(case.logits.bfloat16(), case.labels, case.weights)
    assert loss.dtype == torch.float32
    assert math.isclose(loss.item(), exact.item(), rel_tol=0.02)
