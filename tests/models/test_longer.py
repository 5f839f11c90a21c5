"""LONGER's ranker against itself written out for one candidate at a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.conftest import RequestMaker
from tests.modules.dense_longer import dense_longer
from torchrec_gr.models.longer import LongerConfig, LongerRanker
from torchrec_gr.modules.sequence_trunk import TrunkConfig
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.sequences.request_batch import RequestBatch

CONFIG = LongerConfig(
    trunk=TrunkConfig(block="sasrec", dim=16, num_layers=3, num_heads=2, max_seq_len=15),
    merge=3,
    num_recent=2,
    task_hidden=8,
    init_std=0.5,
)
HISTORIES, CANDIDATES = [3, 0, 12, 1, 5], [1, 2, 0, 3, 4]
TABLE_DIM = 8


@pytest.fixture
def build(schema: FeatureSchema, table_rows: dict[str, int]) -> Any:
    def make(schema: FeatureSchema = schema, **changes: Any) -> LongerRanker:
        torch.manual_seed(0)
        config = dataclasses.replace(CONFIG, **changes)
        ranker = LongerRanker(config, schema, table_rows, TABLE_DIM)
        for parameter in ranker.body.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.4)
        return ranker

    return make


def logits_by_definition(model: LongerRanker, batch: RequestBatch) -> Tensor:
    """Each candidate alone behind its request's history."""
    body = model.body
    values = {key: jagged.values() for key, jagged in model.embeddings(batch.ids).items()}
    history = batch.num_history().tolist()
    features = torch.cat([values["history_item"], values["history_category"]], dim=1)
    events = features.split(history)
    logits, scored = [], 0
    for u, num_candidates in enumerate(batch.num_candidates.tolist()):
        newer = torch.arange(history[u]).flip(0)
        tokens = body.event(events[u]) + body.places.weight[newer]
        country = values["country"][u] @ body.user.of_ids[0]
        age = batch.dense_contextual[u] * body.user.of_numbers[0]
        user = torch.stack([country, age]) + body.user.bias
        for _ in range(num_candidates):
            item, category, shop = (values[f][scored] for f in ("item", "category", "shop"))
            features = torch.cat([item, category, shop, batch.dense_candidates[scored]])
            candidate = body.event(torch.cat([item, category])) + body.candidate(features)
            hidden = dense_longer(body.trunk, user, tokens, candidate)
            logits.append(body.heads(body.final_norm(hidden)[None])[0])
            scored += 1
    return torch.stack(logits)


def test_logits_are_the_definition(build: Any, make_requests: RequestMaker) -> None:
    model, batch = build(), make_requests(HISTORIES, CANDIDATES)
    _, output = model(batch)
    expected = logits_by_definition(model, batch)
    assert expected.std() > 0.1
    torch.testing.assert_close(output.logits, expected.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("merge", [1, 3])
def test_a_score_does_not_depend_on_the_other_candidates(
    build: Any, make_requests: RequestMaker, merge: int
) -> None:
    model, batch = build(merge=merge), make_requests([7, 4], [5, 2])
    order = torch.tensor([3, 0, 4, 1, 2, 5, 6])
    _, output = model(batch)
    _, shuffled = model(with_candidates(batch, order, [5, 2]))
    torch.testing.assert_close(shuffled.logits, output.logits[order])
    _, fewer = model(with_candidates(batch, torch.tensor([3, 6]), [1, 1]))
    torch.testing.assert_close(fewer.logits, output.logits[[3, 6]])


def with_candidates(batch: RequestBatch, chosen: Tensor, counts: list[int]) -> RequestBatch:
    """The batch with some of its candidates, in this order."""
    values, lengths = [], []
    for key in batch.ids.keys():  # noqa: SIM118
        is_candidate = key in batch.candidates
        given = batch.ids[key].values()
        values.append(given[chosen] if is_candidate else given)
        lengths.append(torch.tensor(counts) if is_candidate else batch.ids[key].lengths())
    return dataclasses.replace(
        batch,
        ids=type(batch.ids)(
            keys=list(batch.ids.keys()), values=torch.cat(values), lengths=torch.cat(lengths)
        ),
        num_candidates=torch.tensor(counts),
        candidate_times=batch.candidate_times[chosen],
        source_rows=batch.source_rows[chosen],
        dense_candidates=batch.dense_candidates[chosen],
        labels=batch.labels[chosen],
    )


def test_every_parameter_learns_and_the_loss_falls(build: Any, make_requests: RequestMaker) -> None:
    model, batch = build(), make_requests(HISTORIES, CANDIDATES)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        loss, _ = model(batch)
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None, name
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("histories", "candidates"), [([0], [0]), ([0, 0], [1, 2]), ([4], [0]), ([1], [1])]
)
def test_awkward_batches_are_scored(
    build: Any, make_requests: RequestMaker, histories: list[int], candidates: list[int]
) -> None:
    loss, output = build()(make_requests(histories, candidates))
    loss.backward()
    assert output.logits.shape == (sum(candidates), 1)
    assert output.logits.isfinite().all()


def test_under_autocast_it_scores_nearly_the_same(build: Any, make_requests: RequestMaker) -> None:
    model, batch = build(), make_requests(HISTORIES, CANDIDATES)
    _, exact = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        _, rounded = model(batch)
    torch.testing.assert_close(rounded.logits.float(), exact.logits, atol=0.2, rtol=0.1)


def test_a_log_without_histories_is_refused(build: Any, schema: FeatureSchema) -> None:
    features = tuple(f for f in schema.features if f.role != "history")
    without = dataclasses.replace(schema, features=features, target=None, side_target=None)
    with pytest.raises(ValueError, match="has no history features"):
        build(without)
