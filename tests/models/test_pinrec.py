"""PinRec against itself written out in loops, and what its condition and its window do."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tests.models.conftest import TABLE_ROWS, RequestMaker
from torchrec_gr.models.pinrec import PinRecRecommender
from torchrec_gr.models.pinrec_config import PinRecConfig
from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.sequence_trunk import TrunkConfig
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.sequences.request_batch import RequestBatch
from torchrec_gr.sequences.visibility import causal

CONFIG = PinRecConfig(
    action="history_category",
    desired=2,
    trunk=TrunkConfig(block="sasrec", dim=16, num_layers=2, num_heads=2, max_seq_len=13),
    max_history=12,
    window=3,
    temperature=0.2,
    init_std=0.5,
)
HISTORIES = [5, 0, 12, 1, 2]
ACTIONS = TABLE_ROWS["category"]


@pytest.fixture
def build(schema: FeatureSchema, table_rows: dict[str, int]) -> Any:
    def make(**changes: Any) -> PinRecRecommender:
        torch.manual_seed(0)
        return PinRecRecommender(dataclasses.replace(CONFIG, **changes), schema, table_rows)

    return make


def hidden_states(model: PinRecRecommender, items: Tensor, actions: Tensor) -> Tensor:
    """[n, D] of one history."""
    tables = {name: table.weight for name, table in model.embeddings.embeddings.items()}
    events = tables["item"][items] + tables["category"][actions]
    tokens = events * 16**0.5 + model.body.tokens.positions.weight[: len(items)]
    offsets = torch.tensor([0, len(items)])
    return model.body.trunk(tokens, AttentionRows(offsets, offsets, causal(offsets), 13))


def predicted(model: PinRecRecommender, hidden: Tensor, action: int) -> Tensor:
    wish = model.body.desired_actions.weight[action]
    return model.body.output(torch.cat([hidden, wish]))


def loss_of(model: PinRecRecommender, output: Tensor, item: int, others: list[int]) -> Tensor:
    """Cross-entropy of one item among negatives."""
    rows = model.embeddings.embeddings["item"].weight[[item, *others]]
    logits = cosine_similarity(output, rows, dim=1) / model.body.config.temperature
    return -logits.log_softmax(0)[0]


def losses_by_definition(model: PinRecRecommender, batch: RequestBatch) -> list[Tensor]:
    """One a position and action among its next events."""
    lengths = batch.num_history().tolist()
    negatives = batch.ids["negative_history_item"].values().tolist()
    losses = []
    for items, actions in zip(
        batch.ids["history_item"].values().split(lengths),
        batch.ids["history_category"].values().split(lengths),
        strict=True,
    ):
        if not len(items):
            continue
        hidden = hidden_states(model, items, actions)
        for t in range(len(items)):
            for action in range(ACTIONS):
                ahead = range(t + 1, min(t + 1 + model.body.config.window, len(items)))
                answers = [int(items[i]) for i in ahead if int(actions[i]) == action]
                answers = [item for item in answers if item > 0]
                others = [item for item in negatives if item not in answers]
                output = predicted(model, hidden[t], action)
                of_each = [loss_of(model, output, item, others) for item in answers]
                if of_each:
                    losses.append(min(of_each, key=Tensor.item))
    return losses


@pytest.mark.parametrize("window", [1, 3, 20])
def test_the_loss_and_every_gradient_are_the_definition(
    build: Any, make_requests: RequestMaker, window: int
) -> None:
    model = build(window=window)
    batch = make_requests(HISTORIES, [0] * 5, seed=3, num_negatives=25)
    assert (batch.ids["history_item"].values() == 0).any()
    loss, output = model(batch)
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    losses = losses_by_definition(model, batch)
    expected = torch.stack(losses).mean()
    expected.backward()
    assert output.num_units == len(losses) > (30 if window > 1 else 10)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(output.loss_sum, torch.stack(losses).sum())
    for name, parameter in model.named_parameters():
        message = f"gradient of {name}"
        torch.testing.assert_close(found[name], parameter.grad, msg=lambda _, m=message: m)


def test_retrieval_is_conditioned_on_the_desired_action_at_the_end_of_the_history(
    build: Any, make_requests: RequestMaker
) -> None:
    batch = make_requests(HISTORIES, [0] * 5, num_negatives=7)
    outputs = {}
    for desired in (2, 3):
        model = build(desired=desired).eval()
        with torch.no_grad():
            loss, outputs[desired] = model(batch)
            assert loss == 0
            users = outputs[desired].users
            offset = 0
            for user, length in zip(users, HISTORIES, strict=True):
                own = slice(offset, offset + length)
                offset += length
                if not length:
                    assert not user.any()
                    continue
                items, actions = (batch.ids[name].values()[own] for name in batch.history)
                last = hidden_states(model, items, actions)[-1]
                expected = predicted(model, last, desired)
                torch.testing.assert_close(user, expected / expected.norm())
        rows = model.embeddings.embeddings["item"].weight
        negatives = rows[batch.ids["negative_history_item"].values()]
        torch.testing.assert_close(
            outputs[desired].items, negatives / negatives.norm(dim=1, keepdim=True)
        )
    assert not torch.allclose(outputs[2].users, outputs[3].users, atol=0.01)


def test_what_was_done_with_an_event_is_read(build: Any, make_requests: RequestMaker) -> None:
    model = build().eval()
    batch = make_requests([4], [0], num_negatives=3)
    before = model(batch)[1].users
    model.embeddings.embeddings["category"].weight.data.mul_(-1)
    assert not torch.allclose(before, model(batch)[1].users, atol=0.01)


def test_only_the_nearest_item_of_the_window_is_learned(
    build: Any, make_requests: RequestMaker
) -> None:
    """The last two of three events answer one wish: items that are neither read nor negatives."""
    model = build(window=2)
    batch = make_requests([3], [0], num_negatives=4)
    batch.ids["history_item"].values().copy_(torch.tensor([1, 2, 3]))
    batch.ids["history_category"].values().copy_(torch.tensor([1, 4, 4]))
    batch.ids["negative_history_item"].values().copy_(torch.tensor([9, 8, 9, 7]))
    _, output = model(batch)
    assert output.num_units == 2, "events 0 and 1 each wish for action 4"
    hidden = hidden_states(model, torch.tensor([1, 2, 3]), torch.tensor([1, 4, 4]))
    first = predicted(model, hidden[0], 4)
    nearest = min((loss_of(model, first, item, [9, 8, 9, 7]) for item in (2, 3)), key=Tensor.item)
    second = loss_of(model, predicted(model, hidden[1], 4), 3, [9, 8, 9, 7])
    torch.testing.assert_close(output.loss_sum, (nearest + second).detach())


@pytest.mark.parametrize("histories", [[0], [1], [1, 0, 1]])
def test_without_anything_to_predict_the_loss_is_0_with_finite_gradients(
    build: Any, make_requests: RequestMaker, histories: list[int]
) -> None:
    model = build()
    loss, output = model(make_requests(histories, [0] * len(histories), num_negatives=3))
    loss.backward()
    assert loss == output.num_units == 0
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_items_out_of_the_vocabulary_are_never_a_target(
    build: Any, make_requests: RequestMaker
) -> None:
    model = build()
    batch = make_requests([6], [0], num_negatives=3)
    batch.ids["history_item"].values().zero_()
    loss, output = model(batch)
    assert loss == output.num_units == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": "history_categry"}, "did you mean 'history_category'"),
        ({"action": "history_item"}, "action among the history features"),
        ({"desired": ACTIONS}, "desired: expected a row"),
        ({"window": 0}, "window: expected at least 1"),
        ({"temperature": 0.0}, "temperature: expected above 0"),
        ({"max_history": 13}, "more than trunk.max_seq_len"),
    ],
)
def test_what_cannot_be_is_named(build: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**changes)
