"""GPSD against itself written out for one request at a time, and what must never change a score."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from tests.models.conftest import RequestMaker
from torchrec_gr.models.gpsd import GPSDConfig, GPSDDecoder, GPSDPretrainer, GPSDRanker
from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table
from torchrec_gr.sequences.candidate_layout import lay_out_candidates
from torchrec_gr.sequences.request_batch import RequestBatch
from torchrec_gr.sequences.visibility import causal

CONFIG = GPSDConfig(dim=16, num_layers=3, num_heads=2, side_weight=0.7, init_std=0.5)
HISTORIES, CANDIDATES = [3, 0, 12, 1, 5], [1, 2, 0, 3, 4]


@pytest.fixture
def ranker(schema: FeatureSchema, table_rows: dict[str, int]) -> GPSDRanker:
    torch.manual_seed(0)
    return GPSDRanker(CONFIG, schema, table_rows)


@pytest.fixture
def pretrainer(schema: FeatureSchema, table_rows: dict[str, int]) -> GPSDPretrainer:
    torch.manual_seed(0)
    return GPSDPretrainer(CONFIG, schema, table_rows)


def _causal_row(decoder: GPSDDecoder, tokens: Tensor) -> Tensor:
    """Hidden states of one whole sequence, every token behind the other."""
    offsets = torch.tensor([0, len(tokens)])
    rotation = decoder.rotary(torch.arange(len(tokens)))
    for layer in decoder.layers:
        tokens = layer(tokens, AttentionRows(offsets, offsets, causal(offsets), 99, rotation))
    return decoder.final_norm(tokens)


def _by_request(values: Tensor, counts: list[int]) -> list[Tensor]:
    return list(values.split(counts))


def _logits_by_definition(model: GPSDRanker, batch: RequestBatch) -> Tensor:
    """Each candidate alone behind its request's history, one forward each."""
    tables = {name: table.weight for name, table in model.embeddings.embeddings.items()}
    history, segments = batch.num_history().tolist(), model.body.decoder.segments.weight
    counts = batch.num_candidates.tolist()
    ids = {
        key: _by_request(batch.ids[key].values(), history if "history" in key else counts)
        for key in [*batch.history, *batch.candidates]
    }
    logits, scored = [], 0
    for u, num_history in enumerate(history):
        for c in range(counts[u]):
            item, category = ids["item"][u][c], ids["category"][u][c]
            past = (
                tables["item"][ids["history_item"][u]]
                + tables["category"][ids["history_category"][u]]
                + segments[0]
            )
            candidate = tables["item"][item] + tables["category"][category] + segments[1]
            hidden = _causal_row(model.body.decoder, torch.cat([past, candidate[None]]))[-1]
            features = [
                hidden,
                tables["country"][batch.ids["country"].values()[u]],
                torch.tensor([num_history]).float().log1p(),
                batch.dense_contextual[u],
                tables["shop"][ids["shop"][u][c]],
                batch.dense_candidates[scored],
            ]
            logits.append(model.body.head(torch.cat(features)))
            scored += 1
    return torch.stack(logits)


def test_logits_are_the_definition(ranker: GPSDRanker, make_requests: RequestMaker) -> None:
    batch = make_requests(HISTORIES, CANDIDATES)
    _, output = ranker(batch)
    expected = _logits_by_definition(ranker, batch)
    assert expected.std() > 0.1
    torch.testing.assert_close(output.logits, expected.detach(), atol=1e-5, rtol=1e-5)


def test_order_of_candidates_changes_no_score(
    ranker: GPSDRanker, make_requests: RequestMaker
) -> None:
    batch = make_requests([6], [5])
    order = torch.tensor([3, 0, 4, 1, 2])
    ids = {
        key: batch.ids[key].values()[order] if key in batch.candidates else batch.ids[key].values()
        for key in batch.ids.keys()  # noqa: SIM118
    }
    shuffled = dataclasses.replace(
        batch,
        ids=type(batch.ids)(
            keys=list(ids), values=torch.cat(list(ids.values())), lengths=batch.ids.lengths()
        ),
        dense_candidates=batch.dense_candidates[order],
        labels=batch.labels[order],
    )
    loss, output = ranker(batch)
    shuffled_loss, shuffled_output = ranker(shuffled)
    torch.testing.assert_close(shuffled_output.logits, output.logits[order])
    torch.testing.assert_close(shuffled_loss, loss)


def _pretraining_loss_by_definition(
    model: GPSDPretrainer, batch: RequestBatch
) -> tuple[Tensor, int]:
    tables = {name: table.weight for name, table in model.embeddings.embeddings.items()}
    history = batch.num_history().tolist()
    items = _by_request(batch.ids["history_item"].values(), history)
    categories = _by_request(batch.ids["history_category"].values(), history)
    negatives = batch.ids["negative_history_item"].values()
    losses = []
    for item, category in zip(items, categories, strict=True):
        tokens = tables["item"][item] + tables["category"][category]
        hidden = _causal_row(model.body.decoder, tokens + model.body.decoder.segments.weight[0])
        for t in range(len(item) - 1):
            if item[t + 1] == 0:
                continue
            h = normalize(hidden[t], dim=0) / CONFIG.temperature
            rows = torch.cat([item[t + 1, None], negatives[negatives != item[t + 1]]])
            logits = normalize(tables["item"][rows], dim=1) @ h
            losses.append(cross_entropy(logits, torch.tensor(0)))
            if category[t + 1] > 0:
                logits = normalize(tables["category"][1:], dim=1) @ h
                losses.append(CONFIG.side_weight * cross_entropy(logits, category[t + 1] - 1))
    units = sum(int((item[1:] > 0).sum()) for item in items)
    return torch.stack(losses).sum(), units


def test_pretraining_loss_is_the_definition(
    pretrainer: GPSDPretrainer, make_requests: RequestMaker
) -> None:
    """Rows are drawn from small tables, so out-of-vocabulary targets and collisions occur."""
    batch = make_requests(HISTORIES, [0] * 5, num_negatives=40, seed=3)
    items = batch.ids["history_item"].values()
    assert (items == 0).any()
    assert (batch.ids["history_category"].values() == 0).any()
    loss, output = pretrainer(batch)
    expected, units = _pretraining_loss_by_definition(pretrainer, batch)
    assert float(output.num_units) == units
    torch.testing.assert_close(output.loss_sum, expected.detach())
    torch.testing.assert_close(loss, expected / units)
    ours = torch.autograd.grad(loss, list(pretrainer.parameters()))
    theirs = torch.autograd.grad(expected / units, list(pretrainer.parameters()), allow_unused=True)
    for name, a, b in zip(dict(pretrainer.named_parameters()), ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_an_event_changes_nothing_before_it(pretrainer: GPSDPretrainer) -> None:
    decoder = pretrainer.body.decoder
    layout = lay_out_candidates(torch.tensor([2, 8, 1]), torch.tensor([0, 0, 0]))
    tokens = torch.randn(11, CONFIG.dim)
    changed = tokens.clone()
    changed[6] += 1
    before, after = (
        decoder(t, layout, causal(layout.offsets), torch.arange(11)) for t in (tokens, changed)
    )
    same = (before == after).all(dim=1)
    assert same.tolist() == [True] * 6 + [False] * 4 + [True]


@pytest.mark.parametrize("num_history", [[0], [1, 0, 1]])
def test_histories_too_short_to_predict_give_no_loss(
    pretrainer: GPSDPretrainer, make_requests: RequestMaker, num_history: list[int]
) -> None:
    batch = make_requests(num_history, [0] * len(num_history), num_negatives=5)
    loss, output = pretrainer(batch)
    assert float(loss.detach()) == 0
    assert float(output.num_units) == 0
    loss.backward()
    for name, parameter in pretrainer.body.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() == 0


def test_a_request_without_candidates_or_history(
    ranker: GPSDRanker, make_requests: RequestMaker
) -> None:
    loss, output = ranker(make_requests([0], [0]))
    assert float(loss.detach()) == 0
    assert output.logits.shape == (0, 1)
    loss.backward()
    for name, parameter in ranker.body.named_parameters():
        assert parameter.grad is not None, name


def test_bfloat16_autocast_comes_near(
    pretrainer: GPSDPretrainer, ranker: GPSDRanker, make_requests: RequestMaker
) -> None:
    batch = make_requests(HISTORIES, CANDIDATES, num_negatives=20)
    for model in (pretrainer, ranker):
        exact, _ = model(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded, _ = model(batch)
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)
        rounded.backward()


def test_both_stages_name_the_same_parts_alike(
    pretrainer: GPSDPretrainer, ranker: GPSDRanker
) -> None:
    pretrained, ranked = pretrainer.state_dict(), ranker.state_dict()
    shapes = {name: tensor.shape for name, tensor in ranked.items()}
    for name, tensor in pretrained.items():
        assert shapes[name] == tensor.shape
    tables = {name for name in pretrained if name.startswith("embeddings.")}
    assert tables == {"embeddings.embeddings.item.weight", "embeddings.embeddings.category.weight"}
    new = {name.split(".")[1] for name in set(ranked) - set(pretrained)}
    assert new == {"embeddings", "head"}


def test_initial_weights_are_as_configured(
    schema: FeatureSchema, table_rows: dict[str, int]
) -> None:
    model = GPSDRanker(GPSDConfig(), schema, {**table_rows, "item": 5000})
    assert float(model.embeddings.embeddings["item"].weight.detach().std()) == pytest.approx(
        0.02, rel=0.05
    )
    layer = model.body.decoder.layers[0]
    assert float(layer.feed_forward.up.weight.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_a_schema_that_gpsd_cannot_read_is_refused(table_rows: dict[str, int]) -> None:
    apart = FeatureSchema(
        name="apart",
        labels=("click",),
        features=(Feature("history_item", "history", table="item"), Feature("shop", "candidate")),
        tables=(Table("item"), Table("shop")),
        user="user",
        time="time",
    )
    with pytest.raises(ValueError, match="candidate feature that shares the table"):
        GPSDRanker(CONFIG, apart, table_rows)
    with pytest.raises(ValueError, match="'apart' has no target"):
        GPSDPretrainer(CONFIG, apart, table_rows)
    with pytest.raises(ValueError, match="num_layers: expected at least 1"):
        GPSDConfig(num_layers=0)
