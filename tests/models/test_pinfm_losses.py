"""PinFM's pretraining losses against loops over the events, straight from the equations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from torchrec.sparse.jagged_tensor import JaggedTensor

from tests.models.conftest import RequestMaker
from torchrec_gr.models import pinfm_pretrainer
from torchrec_gr.models.pinfm_config import PinFMConfig
from torchrec_gr.models.pinfm_pretrainer import PinFMLosses, PinFMPretrainer
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.sequences.request_batch import RequestBatch

CONFIG = PinFMConfig(dim=16, num_layers=2, num_heads=2, max_positions=12, init_std=0.5)
POSITIVE = (0, 2, 4)
OFF = PinFMLosses(
    next=1.0, window_length=3, served_length=4, positives={"history_category": POSITIVE}
)
WEIGHTS = {"next": 0.7, "window": 0.4, "future": 1.3, "side": 0.6}
SEED = 5
HISTORIES, USERS = [3, 0, 12, 1, 5, 4, 6], [8, 8, 5, 5, 8, -1, -1]  # two rows are of nobody


def _switched(weights: Mapping[str, float]) -> PinFMLosses:
    return dataclasses.replace(OFF, **{**dict.fromkeys(WEIGHTS, 0.0), **weights})


@dataclasses.dataclass(frozen=True)
class Event:
    """One token, and what the model made of it."""

    user: int
    request: int
    position: int
    item: int
    category: int
    hidden: Tensor  # H_i
    target: Tensor  # z_i

    @property
    def positive(self) -> bool:
        return self.item > 0 and self.category in OFF.positives["history_category"]


def _events(model: PinFMPretrainer, batch: RequestBatch) -> list[Event]:
    """Each request encoded alone."""
    embedded = {} if model.embeddings is None else dict(model.embeddings(batch.ids))
    if model.items is not None:
        embedded.update(model.items(model.item_keys(batch.ids)))
    columns = embedded["history_item"], embedded["history_category"]
    targets = model.body.encoder.target(columns[0].values())
    events, place = [], 0
    for request, length in enumerate(batch.num_history().tolist()):
        num_history = torch.tensor([length])
        row = [
            JaggedTensor(column.values()[place : place + length], lengths=num_history)
            for column in columns
        ]
        states = model.body.encoder.history_states(row, num_history)
        user = int(batch.user_ids[request])
        for position in range(length):
            ids = [int(batch.ids[key].values()[place]) for key in batch.history]
            user_or_nobody = user if user >= 0 else -1 - request
            events.append(
                Event(user_or_nobody, request, position, *ids, states[position], targets[place])
            )
            place += 1
    return events


def _is_predicted(loss: str, i: Event, j: Event) -> bool:
    ahead = j.position - i.position
    if i.request != j.request or not j.positive:
        return False
    if loss == "future":
        return i.position + 1 == OFF.served_length and 1 <= ahead <= OFF.window_length
    return 1 <= ahead <= (OFF.window_length if loss == "window" else 1)


def _info_nce(i: Event, j: Event, events: list[Event], temperature: Tensor) -> Tensor:
    own = {n.item for n in events if n.positive and n.user == i.user}
    right = (i.hidden @ j.target / temperature).exp()
    wrong = [
        (i.hidden @ n.target / temperature).exp()
        for n in events
        if n.positive and n.item not in own
    ]
    return -(right / torch.stack([right, *wrong]).sum()).log()


def _by_definition(model: PinFMPretrainer, batch: RequestBatch) -> tuple[dict[str, Tensor], int]:
    """The mean of each loss that is switched on over its pairs, and the pairs of the first."""
    events, temperature = _events(model, batch), model.body.encoder.contrast.temperature
    means, num_pairs = {}, 0
    for loss in WEIGHTS:
        if not getattr(model.body.losses, loss):
            continue
        pairs = [(i, j) for i in events for j in events if _is_predicted(loss, i, j)]
        if loss == "side":
            assert model.embeddings is not None
            sides = normalize(model.embeddings.embeddings["category"].weight[1:], dim=1)
            losses = [
                cross_entropy(sides @ i.hidden / temperature, torch.tensor(j.category - 1))
                for i, j in pairs
                if j.category > 0
            ]
        else:
            losses = [_info_nce(i, j, events, temperature) for i, j in pairs]
        means[loss] = torch.stack(losses).mean()
        num_pairs = num_pairs or len(losses)
    return means, num_pairs


@pytest.fixture
def batch(make_requests: RequestMaker) -> RequestBatch:
    """Small tables, so that items repeat; several rows of a user."""
    made = make_requests(HISTORIES, [0] * len(HISTORIES), num_negatives=1, seed=SEED)
    return dataclasses.replace(made, user_ids=torch.tensor(USERS))


class Maker:
    def __init__(self, schema: FeatureSchema, table_rows: dict[str, int]) -> None:
        self.schema, self.table_rows = schema, table_rows

    def __call__(self, losses: PinFMLosses, config: PinFMConfig = CONFIG) -> PinFMPretrainer:
        torch.manual_seed(0)
        return PinFMPretrainer(config, losses, self.schema, self.table_rows)


@pytest.fixture
def make(schema: FeatureSchema, table_rows: dict[str, int]) -> Maker:
    return Maker(schema, table_rows)


def _gradients(model: PinFMPretrainer, loss: Tensor) -> dict[str, Tensor]:
    """Of every parameter that learns; zeros where the loss does not reach it."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    pairs = zip(named.items(), found, strict=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in pairs}


def _check(model: PinFMPretrainer, batch: RequestBatch) -> None:
    loss, output = model(batch)
    means, num_pairs = _by_definition(model, batch)
    expected = sum(getattr(model.body.losses, name) * mean for name, mean in means.items())
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    assert output.num_units == num_pairs
    torch.testing.assert_close(output.loss_sum / num_pairs, expected.detach())
    torch.testing.assert_close(
        _gradients(model, loss), _gradients(model, expected), atol=1e-5, rtol=1e-3
    )


def test_the_batch_has_the_awkward_cases(make: Maker, batch: RequestBatch) -> None:
    """Else the comparisons would hold for less than they say."""
    events = _events(make(_switched(WEIGHTS)), batch)
    positives = [e for e in events if e.positive]
    owners = {item: {e.user for e in positives if e.item == item} for item in range(30)}
    assert any(len(users) > 1 for users in owners.values())
    assert len(positives) > len({e.item for e in positives})
    assert any(e.item == 0 and e.category in POSITIVE for e in events)
    assert any(e.item > 0 and not e.positive for e in events)
    assert any(_is_predicted("side", i, j) and j.category == 0 for i in events for j in events)


@pytest.mark.parametrize("loss", WEIGHTS)
def test_each_loss_alone(loss: str, make: Maker, batch: RequestBatch) -> None:
    _check(make(_switched({loss: WEIGHTS[loss]})), batch)


@pytest.mark.parametrize("changes", [{}, {"trunk": "hstu"}, {"num_hashes": 2, "hash_rows": 17}])
def test_all_losses_together(changes: dict[str, object], make: Maker, batch: RequestBatch) -> None:
    _check(make(_switched(WEIGHTS), dataclasses.replace(CONFIG, **changes)), batch)


def test_weights_are_linear(make: Maker, batch: RequestBatch) -> None:
    every = make(_switched(WEIGHTS))
    total = _gradients(every, every(batch)[0])
    summed: dict[str, Tensor] = {name: torch.zeros_like(g) for name, g in total.items()}
    losses = []
    for loss, weight in WEIGHTS.items():
        alone = make(_switched({loss: 1.0}))
        losses.append(weight * alone(batch)[0])
        for name, gradient in _gradients(alone, losses[-1]).items():
            summed[name] += gradient
    torch.testing.assert_close(every(batch)[0], torch.stack(losses).sum())
    torch.testing.assert_close(total, summed, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("loss", WEIGHTS)
def test_what_is_switched_off_costs_nothing(
    loss: str, make: Maker, make_requests: RequestMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pairs are not looked for, and only the side loss asks for the rows of its table."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a loss that is switched off was computed")

    model = make(_switched({loss: 1.0}))
    if loss == "side":
        monkeypatch.setattr(type(model.body.encoder.contrast), "forward", refuse)
    else:
        monkeypatch.setattr(pinfm_pretrainer, "full_softmax", refuse)
    for name in {"next", "window", "future"} - {loss} - ({"next"} if loss == "side" else set()):
        names = {"next": "next_token_pairs", "window": "window_pairs", "future": "future_pairs"}
        monkeypatch.setattr(pinfm_pretrainer, names[name], refuse)
    num_negatives = 1 if loss == "side" else 0
    made = make_requests(HISTORIES, [0] * len(HISTORIES), num_negatives=num_negatives, seed=SEED)
    model(made)[0].backward()


def test_pairs_are_drawn_down_to_the_budget(make: Maker, batch: RequestBatch) -> None:
    losses = dataclasses.replace(_switched({"window": 1.0}), max_pairs=7)
    model, drawn = make(losses), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        loss, output = model(batch)
        assert output.num_units == 7
        drawn.append(loss.item())
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("num_history", [[1, 0, 1], [0], [1]])
def test_without_a_pair_the_loss_is_nil(
    num_history: list[int], make: Maker, make_requests: RequestMaker
) -> None:
    model = make(_switched(WEIGHTS))
    loss, output = model(make_requests(num_history, [0] * len(num_history), num_negatives=1))
    assert loss == output.loss_sum == output.num_units == 0
    for gradient in _gradients(model, loss).values():
        assert not gradient.any()


def test_one_user_alone_has_no_negatives(make: Maker, batch: RequestBatch) -> None:
    one = dataclasses.replace(batch, user_ids=torch.full((len(USERS),), 4))
    model = make(_switched({"next": 1.0, "window": 1.0, "future": 1.0}))
    loss, output = model(one)
    assert loss == 0
    assert output.num_units > 0
    for gradient in _gradients(model, loss).values():
        assert not gradient.any()
