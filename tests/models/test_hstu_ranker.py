"""HSTU's ranker against its definition, written out row by row."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.dense_hstu_ranker import DenseHSTURanker
from tests.models.mtgr_windows import (
    TABLE_DIM,
    TABLE_ROWS,
    Window,
    batch_of,
    draw_window,
    window_schema,
)
from tests.models.window_rankers import assert_same_as_dense, awkward_windows, results
from torchrec_gr.models.hstu_ranker import HSTURanker
from torchrec_gr.models.hstu_ranker_config import HSTURankerConfig
from torchrec_gr.models.hstu_ranker_rows import lay_out_rows
from torchrec_gr.modules.sequence_trunk import SequenceTrunk, TrunkConfig
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.sequences.request_batch import RequestBatch

TRUNK = TrunkConfig(dim=8, num_layers=2, num_heads=2, max_seq_len=24)
CONFIG = HSTURankerConfig(trunk=TRUNK, task_hidden=5, init_std=0.7)
ALL_ENCODINGS = ("position", "request_index", "time_gap")


def config_of(trunk: dict[str, Any] | None = None, **changes: Any) -> HSTURankerConfig:
    return dataclasses.replace(CONFIG, trunk=dataclasses.replace(TRUNK, **trunk or {}), **changes)


GENRANK = config_of({"bias": "alibi"}, tokens="added", encodings=ALL_ENCODINGS)
LIGR = config_of({"block": "ligr", "feed_forward_dim": 12}, set_wise=True)


def ranker(config: HSTURankerConfig, num_labels: int = 2) -> HSTURanker:
    """With norms and encodings of a size that shows."""
    torch.manual_seed(0)
    schema = window_schema(("click", "like")[:num_labels])
    model = HSTURanker(config, schema, TABLE_ROWS, TABLE_DIM)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("norm", "bias.", "encodings", "unknown_action")):
                parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def assert_equals_its_definition(
    config: HSTURankerConfig, batch: RequestBatch, num_labels: int = 2
) -> None:
    model = ranker(config, num_labels)
    schema = window_schema(("click", "like")[:num_labels])
    assert_same_as_dense(model, DenseHSTURanker(model, config, schema), batch)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        config_of(encodings=()),
        config_of({"bias": "position"}),
        config_of({"bias": "position_time", "num_layers": 1}, encodings=("position",)),
        GENRANK,
        dataclasses.replace(GENRANK, micro_batches=3, set_wise=True),
        LIGR,
        config_of({"block": "ligr", "bias": "alibi"}, encodings=ALL_ENCODINGS, micro_batches=50),
        config_of({"num_heads": 4}, set_wise=True, tokens="added"),
    ],
    ids=str,
)
def test_it_equals_its_definition(config: HSTURankerConfig) -> None:
    for seed in range(2):
        assert_equals_its_definition(config, batch_of(awkward_windows(seed)))


@pytest.mark.parametrize("config", [CONFIG, GENRANK], ids=["interleaved", "added"])
def test_requests_as_the_serving_reader_gives_them(config: HSTURankerConfig) -> None:
    assert_equals_its_definition(config, batch_of(awkward_windows(), of_requests=True))


def test_one_label() -> None:
    assert_equals_its_definition(CONFIG, batch_of(awkward_windows(), num_labels=1), num_labels=1)


@pytest.mark.parametrize("block", ["hstu", "hstu_research", "sasrec", "ligr"])
@pytest.mark.parametrize("bias", ["none", "position", "position_time", "alibi"])
def test_every_trunk_reaches_every_weight(block: Any, bias: Any) -> None:
    model = ranker(config_of({"block": block, "bias": bias}, set_wise=True))
    _, _, gradients = results(model, batch_of(awkward_windows()))
    for name, gradient in gradients.items():
        assert gradient.any(), name


def test_a_batch_without_labels_is_scored() -> None:
    batch, model = batch_of(awkward_windows()), ranker(LIGR)
    _, expected, _ = results(model, batch)
    loss, output = model(dataclasses.replace(batch, labels=None))
    assert loss == 0
    assert torch.equal(output.logits, expected)


def test_bf16_autocast_is_near() -> None:
    batch, model = batch_of(awkward_windows()), ranker(LIGR)
    loss, logits, _ = results(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        half_loss, output = model(batch)
    torch.testing.assert_close(half_loss.detach(), loss, rtol=0.02, atol=0)
    torch.testing.assert_close(output.logits, logits, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("config", [CONFIG, GENRANK, LIGR], ids=["hstu", "genrank", "ligr"])
def test_the_order_of_candidates_and_the_company_of_a_row_change_nothing(
    config: HSTURankerConfig,
) -> None:
    windows = awkward_windows()
    model = ranker(config)
    _, together, _ = results(model, batch_of(windows))
    backwards = [w._replace(candidates=w.candidates[::-1]) for w in windows]
    _, reordered, _ = results(model, batch_of(backwards))
    counts = [len(w.candidates) for w in windows]
    for window, part, flipped in zip(
        windows, together.split(counts), reordered.split(counts), strict=True
    ):
        _, alone, _ = results(model, batch_of([window]))
        torch.testing.assert_close(alone, part)
        torch.testing.assert_close(flipped.flip(0), part)


def test_an_interleaved_event_is_two_tokens_and_an_added_one_is_one() -> None:
    window = draw_window(random.Random(0), [3, 4, 9], 0, [5, 10])
    batch = batch_of([window])
    for config, num_tokens, num_visible in ((CONFIG, 2 + 6, [6, 8]), (GENRANK, 2 + 3, [4, 5])):
        model = ranker(config)
        inputs = model.body.reader(model.embeddings(batch.ids), batch)
        context = model.body.context(inputs)
        assert context.tokens.shape == (num_tokens, 8)
        assert model.body.candidate_tokens(inputs).num_visible.tolist() == num_visible


def scores_of(model: nn.Module, window: Window) -> Tensor:
    with torch.no_grad():
        _, output = model(batch_of([window]))
    assert output.logits is not None
    return output.logits[:, 0]


@pytest.mark.parametrize("set_wise", [False, True])
def test_candidates_of_one_moment_alone_see_each_other(set_wise: bool) -> None:
    model = ranker(dataclasses.replace(LIGR, set_wise=set_wise))
    window = draw_window(random.Random(0), [1, 6], 0, [5, 7, 5, 7, 8, 5])
    other = draw_window(random.Random(1), [], 0, [5]).candidates[0]
    candidates = list(window.candidates)
    before = scores_of(model, window)
    for i in range(len(candidates)):
        changed = [*candidates[:i], other._replace(time=candidates[i].time), *candidates[i + 1 :]]
        after = scores_of(model, window._replace(candidates=tuple(changed)))
        seen = [j == i or (set_wise and candidates[j].time == candidates[i].time) for j in range(6)]
        assert ((after - before).abs() > 1e-6).tolist() == seen


def test_the_context_may_pass_the_trunk_before_any_candidate_is_known() -> None:
    model = ranker(LIGR)
    batch = batch_of(awkward_windows())
    body, inputs = model.body, model.body.reader(model.embeddings(batch.ids), batch)
    context, candidates = body.context(inputs), body.candidate_tokens(inputs)
    layout, rows = lay_out_rows(context.rows, candidates)
    trunk: SequenceTrunk = body.trunk
    whole = trunk(layout.interleave(context.tokens, candidates.tokens), rows)
    alone = trunk(context.tokens, context.rows)
    crossed = layout.interleave(alone, whole[layout.candidate_index])
    torch.testing.assert_close(crossed, whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": "aded"}, "did you mean 'added'"),
        ({"encodings": ("positions",)}, "did you mean 'position'"),
        ({"encodings": ("position", "position")}, "expected each once"),
        ({"task_hidden": 0}, "task_hidden: expected at least 1, got 0"),
        ({"micro_batches": 0}, "micro_batches: expected at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize(("lacking", "part"), [("candidate", "item"), ("history", "action")])
def test_a_history_without_items_or_actions_is_named(lacking: str, part: str) -> None:
    schema = window_schema()
    dropped = {
        "candidate": ("item", "tag", "price"),
        "history": ("history_click", "history_watched"),
    }[lacking]
    features = tuple(f for f in schema.features if f.name not in dropped)
    schema = dataclasses.replace(schema, features=features)
    assert isinstance(schema, FeatureSchema)
    with pytest.raises(ValueError, match=f"no history feature of an {part}"):
        HSTURanker(CONFIG, schema, TABLE_ROWS, TABLE_DIM)


def test_rows_that_are_too_long_and_events_out_of_order_are_named() -> None:
    draw, model = random.Random(0), ranker(CONFIG)
    model(batch_of([draw_window(draw, range(8), 0, range(6))]))  # 2 + 16 + 6 tokens
    with pytest.raises(ValueError, match="a row has 25 tokens, more than max_seq_len 24"):
        model(batch_of([draw_window(draw, range(8), 0, range(7))]))
    with pytest.raises(ValueError, match="a row has 25 tokens, more than max_seq_len 24"):
        model(batch_of([draw_window(draw, range(11), 0, [99])]))
    with pytest.raises(ValueError, match="a row has 26 tokens, more than max_seq_len 24"):
        model(batch_of([draw_window(draw, range(12), 0, [99])]))
    with pytest.raises(ValueError, match="oldest first"):
        model(batch_of([draw_window(draw, [5, 4], 0, [9])]))
