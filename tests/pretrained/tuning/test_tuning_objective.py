"""The losses inside the module against loops over their definitions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from torchrec_gr.models.pinfm import PinFMEncoder, PinFMOutput
from torchrec_gr.models.pinfm_config import PinFMConfig, PinFMFusion
from torchrec_gr.modules.contrastive import InfoNCE
from torchrec_gr.pretrained.tuning.pinfm_tuning import PinFMTuning
from torchrec_gr.pretrained.tuning.tuning_objective import TuningObjective, TuningTap

DIM, CONTENT_DIM, NUM_ITEMS = 8, 6, 12
CONFIG = PinFMConfig(dim=DIM, num_layers=1, num_heads=2, max_positions=8, init_std=0.3)

History = Sequence[Sequence[int]]
SHAPES: dict[str, tuple[History, list[int], list[int]]] = {
    "mixed": ([[1, 2, 3, 1], [], [4, 2], [5]], [2, 0, 1, 1], [3, 3, 7, 1]),
    "one user's requests": ([[1, 2, 3], [2, 3, 4], [9, 1]], [1, 1, 1], [5, 6, 5]),
    "unknown items": ([[0, 1, 0, 0], [0], [3, 2, 0, 4]], [1, 0, 1], [2, 8]),
    "one pair": ([[1, 2]], [1], [2]),
    "one event": ([[3]], [1], [4]),
    "no history": ([[], []], [1, 1], [5, 5]),
    "nothing": ([[]], [0], []),
}
"""Histories of items, candidates of each request, and the candidates' items."""


class Case:
    """A module and the embeddings of a batch, all of which train."""

    def __init__(self, shape: str, num_negatives: int | None = None) -> None:
        torch.manual_seed(3)
        self.histories, num_candidates, candidates = SHAPES[shape]
        self.encoder = PinFMEncoder(CONFIG, PinFMFusion(content_dim=CONTENT_DIM))
        self.encoder.contrast.num_negatives = num_negatives
        for part in self.encoder.modules():
            if isinstance(part, nn.Linear):  # so that targets differ
                nn.init.normal_(part.weight, std=0.8)
        self.items = nn.Parameter(torch.randn(NUM_ITEMS, DIM))
        self.content = nn.Parameter(torch.randn(len(candidates), CONTENT_DIM))
        self.ids = torch.tensor([item for row in self.histories for item in row]).long()
        self.num_history = torch.tensor([len(row) for row in self.histories])
        self.candidate_ids = torch.tensor(candidates).long()
        self.num_candidates = torch.tensor(num_candidates)

    def encode(self) -> PinFMOutput:
        history = JaggedTensor(self.items[self.ids], lengths=self.num_history)
        candidates = JaggedTensor(self.items[self.candidate_ids], lengths=self.num_candidates)
        counts = self.num_history, self.num_candidates
        return self.encoder.encode(
            [history], [candidates], *counts, self.content, with_history=True
        )

    def loss(self, objective: nn.Module, users: list[int] | None = None, **more: Tensor) -> Tensor:
        """As the body of an attached module calls it."""
        return objective(
            self.encoder,
            states=self.encode().history,
            history=self.items[self.ids],
            history_ids={"item": self.ids, **more},
            num_history=self.num_history,
            users=None if users is None else torch.tensor(users),
            candidates=self.items[self.candidate_ids],
            candidate_ids=self.candidate_ids,
            content=self.content,
        )

    def gradients(self, loss: Tensor, *others: nn.Module) -> dict[str, Tensor]:
        """Of every parameter that the loss may reach; zeros where it does not."""
        named = dict(self.encoder.named_parameters())
        named |= {"items": self.items, "content ids": self.content}
        for other in others:
            named |= {f"other.{name}": weight for name, weight in other.named_parameters()}
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        return {
            name: torch.zeros_like(weight) if gradient is None else gradient
            for (name, weight), gradient in zip(named.items(), found, strict=True)
        }


def info_nce(
    query: Tensor, positive: Tensor, negatives: Sequence[Tensor], contrast: InfoNCE
) -> Tensor:
    """Of one pair, by its definition."""
    if not negatives:
        return query.sum() * 0
    logits = torch.stack([query @ vector for vector in (positive, *negatives)])
    return -(logits / contrast.temperature).log_softmax(0)[0]


def next_token(case: Case, users: Sequence[int], positive: Sequence[bool]) -> Tensor:
    """Its mean over pairs, event by event."""
    states, targets = case.encode().history, case.encoder.target(case.items[case.ids])
    assert states is not None
    items = case.ids.tolist()
    events = [(u, i) for u, row in enumerate(case.histories) for i in range(len(row))]
    owner = [users[u] for u, _ in events]
    losses = []
    for place, (_, i) in enumerate(events):
        if i == 0 or not positive[place]:
            continue
        own = {items[k] for k in range(len(items)) if positive[k] and owner[k] == owner[place]}
        negatives = [targets[k] for k in range(len(items)) if positive[k] and items[k] not in own]
        losses.append(info_nce(states[place - 1], targets[place], negatives, case.encoder.contrast))
    return torch.stack(losses).mean() if losses else states.sum() * 0


def aligned(case: Case, contrast: InfoNCE) -> Tensor:
    """Its mean over candidates, one by one."""
    losses, ids = [], case.candidate_ids.tolist()
    for place, content in enumerate(case.content):
        query = case.encoder.content(content)  # type: ignore[misc]
        vectors = [row / row.norm() for row in case.items[case.candidate_ids]]
        negatives = [vectors[k] for k in range(len(ids)) if ids[k] != ids[place]]
        losses.append(info_nce(query / query.norm(), vectors[place], negatives, contrast))
    return torch.stack(losses).mean() if losses else case.content.sum() * 0


def assert_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def tuning(**options: Any) -> PinFMTuning:
    return PinFMTuning(content={"topic": 5}, **options)


@pytest.mark.parametrize("shape", SHAPES)
def test_next_token_is_its_definition(shape: str) -> None:
    case = Case(shape)
    objective = TuningObjective(tuning(next_token_weight=0.7), 0.05)
    loss = case.loss(objective)
    users = range(len(case.histories))
    expected = 0.7 * next_token(case, users, [item > 0 for item in case.ids.tolist()])
    torch.testing.assert_close(loss, expected)
    assert_same(case.gradients(loss), case.gradients(expected))
    assert (loss > 0) == (shape in ("mixed", "one user's requests", "unknown items"))


def test_requests_of_one_user_are_not_each_others_negatives() -> None:
    case = Case("one user's requests")
    objective = TuningObjective(tuning(next_token_weight=1.0), 0.05)
    known, apart = case.loss(objective, [5, 5, 6]), case.loss(objective)
    expected = next_token(case, [5, 5, 6], [True] * len(case.ids))
    torch.testing.assert_close(known, expected)
    assert_same(case.gradients(known), case.gradients(expected))
    assert known < apart  # the false negatives are gone
    assert torch.equal(case.loss(objective, [7, 7, 7]), torch.zeros(()))  # no negative is left


@pytest.mark.parametrize(
    ("shape", "actions", "surfaces"),
    [
        ("mixed", [1, 2, 0, 3, 2, 1, 4], [0, 0, 9, 0, 0, 0, 0]),
        ("unknown items", [1, 2, 1, 0, 2, 3, 0, 2, 0], [0, 0, 0, 9, 0, 0, 9, 9, 0]),
    ],
)
def test_positive_events_are_those_of_pretraining(
    shape: str, actions: list[int], surfaces: list[int]
) -> None:
    case = Case(shape)
    positives = {"action": (1, 2), "surface": (9,)}
    objective = TuningObjective(tuning(next_token_weight=1.0), 0.05, positives)
    more = {"action": torch.tensor(actions), "surface": torch.tensor(surfaces, dtype=torch.int32)}
    loss = case.loss(objective, **more)
    positive = [
        item > 0 and (action in (1, 2) or surface == 9)
        for item, action, surface in zip(case.ids.tolist(), actions, surfaces, strict=True)
    ]
    expected = next_token(case, range(len(case.histories)), positive)
    assert expected > 0
    torch.testing.assert_close(loss, expected)
    assert_same(case.gradients(loss), case.gradients(expected))
    assert not torch.allclose(loss, case.loss(TuningObjective(tuning(next_token_weight=1.0), 0.05)))


@pytest.mark.parametrize("shape", SHAPES)
def test_alignment_is_its_definition(shape: str) -> None:
    case = Case(shape)
    objective = TuningObjective(tuning(alignment_weight=0.3), 0.2)
    loss = case.loss(objective)
    assert objective.alignment is not None
    assert math.isclose(objective.alignment.temperature.item(), 0.2, rel_tol=1e-6)
    expected = 0.3 * aligned(case, objective.alignment)
    torch.testing.assert_close(loss, expected)
    assert_same(case.gradients(loss, objective), case.gradients(expected, objective))
    assert (loss > 0) == (len(set(case.candidate_ids.tolist())) > 1)


def test_losses_are_added_and_those_of_weight_zero_are_not_there() -> None:
    case = Case("mixed")
    both = TuningObjective(tuning(next_token_weight=0.5, alignment_weight=0.25), 0.05)
    first = TuningObjective(tuning(next_token_weight=0.5), 0.05)
    second = TuningObjective(tuning(alignment_weight=0.25), 0.05)
    assert both.reads_history
    assert first.reads_history
    assert not second.reads_history
    assert not list(first.parameters())
    assert torch.equal(case.loss(both), case.loss(first) + case.loss(second))
    gradients = case.gradients(case.loss(second))
    unread = [name for name in gradients if name.startswith(("target", "contrast", "layers"))]
    assert unread
    assert not any(gradients[name].any() for name in unread)


def test_pairs_and_negatives_are_drawn_down() -> None:
    case = Case("mixed", num_negatives=2)
    objective = TuningObjective(tuning(next_token_weight=1.0, max_pairs=1), 0.05)
    found = {round(case.loss(objective).item(), 6) for _ in range(40)}
    assert 3 < len(found) <= 40  # 4 pairs, each with a few draws of two negatives
    torch.manual_seed(1)
    drawn = case.loss(objective)
    torch.manual_seed(1)
    assert torch.equal(case.loss(objective), drawn)


def test_what_is_tapped_is_taken_once() -> None:
    tap, vectors = TuningTap(), torch.zeros(2, 3)
    with pytest.raises(RuntimeError, match="gave no vectors in this step"):
        tap.take()
    tap.put(vectors, None)
    assert tap.take()[0] is vectors
    with pytest.raises(RuntimeError, match="gave no vectors in this step"):
        tap.take()
