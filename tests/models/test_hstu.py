"""The next-item recommender: its rows, its targets, its published configurations."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.data.clicks import click_schema, clicks, prepare_clicks
from torchrec_gr.data.held_out_loader import HeldOutLoader
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.sequence_loader import SequenceLoader
from torchrec_gr.models.hstu import HSTURecommender
from torchrec_gr.models.hstu_config import HSTUConfig
from torchrec_gr.modules.sequence_trunk import TrunkConfig
from torchrec_gr.ops.attention_bias import time_buckets
from torchrec_gr.sequences.request_batch import RequestBatch

MAX_HISTORY = 5
TRUNK = TrunkConfig("hstu_research", 8, 2, 2, bias="position_time", max_seq_len=16)
CONFIG = HSTUConfig(TRUNK, MAX_HISTORY, num_negatives=None)


@pytest.fixture
def log(tmp_path: Path) -> PreparedLog:
    return prepare_clicks(tmp_path, clicks(num_users=12))


def build(log: PreparedLog, config: HSTUConfig = CONFIG) -> HSTURecommender:
    torch.manual_seed(0)
    model = HSTURecommender(config, log.schema, log.table_rows)
    for weight in model.body.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


def batch_of(log: PreparedLog, num_negatives: int | None = None) -> RequestBatch:
    loader = SequenceLoader(
        log,
        batch_size=20,
        num_negatives=num_negatives,
        seed=0,
        splits=("train", "test"),
        segment_length=MAX_HISTORY + 1,
    )
    return next(iter(loader))


def layer_norm(x: Tensor) -> Tensor:
    return (x - x.mean()) / (x.var(correction=0) + 1e-6).sqrt()


def states(model: HSTURecommender, items: list[int], times: list[int]) -> Tensor:
    """[n, D]: the research block over one history, one query and one key after the other."""
    body, n = model.body, len(items)
    table = model.embeddings.embeddings["item"].weight
    dim = table.shape[1]
    x = torch.stack(
        [table[item] * dim**0.5 + body.tokens.positions.weight[i] for i, item in enumerate(items)]
    )
    asked = [*times[1:], times[-1]]
    for layer in body.trunk.layers:
        projected = torch.nn.functional.silu(
            torch.stack([layer_norm(token) for token in x]) @ layer.projection.weight.t()
        )
        q, u, k, v = projected.unflatten(1, (4, 2, dim // 2)).unbind(1)
        after = []
        for i in range(n):
            attended = torch.zeros(2, dim // 2)
            for j in range(i + 1):
                bucket = time_buckets(torch.tensor(asked[i]), torch.tensor(times[j]), 129)
                bias = layer.bias.position_table[0, j - i + 15] + layer.bias.time_table[0, bucket]
                for head in range(2):
                    score = torch.nn.functional.silu(q[i, head] @ k[j, head] + bias)
                    attended[head] += score * v[j, head] / 16
            gated = layer_norm(attended.flatten()) * u[i].flatten()
            after.append(x[i] + layer.output(gated))
        x = torch.stack(after)
    return x


def plain_loss(model: HSTURecommender, batch: RequestBatch) -> Tensor:
    """The mean over all positions whose next item is known, each against all other items."""
    table = model.embeddings.embeddings["item"].weight
    catalogue = normalize(table[1:], dim=1, eps=1e-6)
    losses = []
    times = batch.history_times.split(batch.num_history().tolist())
    for items, when in zip(batch.ids["history_item"].to_dense(), times, strict=True):
        hidden = states(model, items.tolist(), when.tolist())
        for i, following in enumerate(items.tolist()[1:]):
            if following > 0:
                logits = catalogue @ normalize(hidden[i], dim=0, eps=1e-6) / 0.05
                losses.append(-logits.log_softmax(dim=0)[following - 1])
    return torch.stack(losses).mean()


def test_the_loss_and_every_gradient_are_those_of_the_definition(log: PreparedLog) -> None:
    model, batch = build(log), batch_of(log)
    assert 0 in batch.ids["history_item"].values()  # an item out of the vocabulary is among them
    loss, output = model.train()(batch)
    expected = plain_loss(model, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.loss_sum / output.num_units, expected, rtol=1e-5, atol=1e-5)
    weights = list(model.parameters())
    found = torch.autograd.grad(loss, weights)
    plain = torch.autograd.grad(expected, weights)
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-5)


def test_in_eval_mode_users_stand_at_their_last_event(log: PreparedLog) -> None:
    model = build(log).eval()
    loader = HeldOutLoader(log, "test", batch_size=50, max_history=MAX_HISTORY)
    (held,) = loader
    with torch.no_grad():
        loss, output = model(held.batch)
    assert loss == 0
    times = held.batch.history_times.split(held.batch.num_history().tolist())
    histories = held.batch.ids["history_item"].to_dense()
    for user, items, when in zip(output.users, histories, times, strict=True):
        expected = states(model, items.tolist(), when.tolist())[-1]
        torch.testing.assert_close(user, normalize(expected, dim=0), rtol=1e-4, atol=1e-5)


def test_the_catalogue_is_read_with_requests_without_events(log: PreparedLog) -> None:
    model = build(log).eval()
    loader = HeldOutLoader(log, "test", batch_size=50, max_history=5, catalogue_rows=7)
    items = torch.cat([model(batch)[1].items for batch in loader.catalogue()])
    table = model.embeddings.embeddings["item"].weight
    torch.testing.assert_close(items, normalize(table[1:], dim=1))
    assert model(next(loader.catalogue()))[1].users.tolist() == [[0.0] * 8]


def test_each_position_draws_negatives_of_its_own(log: PreparedLog) -> None:
    config = dataclasses.replace(CONFIG, num_negatives=3)
    model, batch = build(log, config).train(), batch_of(log, num_negatives=9)
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(model(batch)[0].item())
    assert losses[0] == losses[1] != losses[2]


def test_a_history_longer_than_the_model_has_places_for_is_refused(log: PreparedLog) -> None:
    config = dataclasses.replace(CONFIG, max_history=2)
    with pytest.raises(ValueError, match="has places for 3"):
        build(log, config)(batch_of(log))


def test_a_schema_without_target_is_refused(log: PreparedLog) -> None:
    with pytest.raises(ValueError, match="has no target"):
        HSTURecommender(CONFIG, click_schema(target=None), log.table_rows)


def test_published_configurations() -> None:
    large = HSTUConfig.published("hstu-large")
    assert large.trunk == TrunkConfig(
        "hstu_research", 50, 8, 2, None, 0.2, "position_time", max_seq_len=211
    )
    assert (large.max_history, large.num_negatives, large.input_dropout) == (200, 128, 0.2)
    sasrec = HSTUConfig.published("sasrec", "books")
    assert sasrec.trunk == TrunkConfig("sasrec", 64, 4, 4, 64, 0.5, "none", max_seq_len=61)
    assert HSTUConfig.published("hstu", "ml-20m").trunk.dim == 256
    with pytest.raises(ValueError, match="hstu-large"):
        HSTUConfig.published("hstu-larg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ml-20m"):
        HSTUConfig.published("hstu", "ml-21m")  # type: ignore[arg-type]


def test_a_row_must_hold_the_history_and_the_event_to_predict() -> None:
    with pytest.raises(ValueError, match=r"max_seq_len 16"):
        HSTUConfig(TRUNK, max_history=16)
