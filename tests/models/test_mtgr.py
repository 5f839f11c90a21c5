"""MTGR against its definition, written out row by row."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch

from tests.models.dense_mtgr import DenseMTGR
from tests.models.mtgr_windows import (
    TABLE_DIM,
    TABLE_ROWS,
    batch_of,
    draw_window,
    window_schema,
)
from tests.models.window_rankers import (
    assert_same_as_dense,
    awkward_windows,
    gradients_of,
    results,
)
from torchrec_gr.models.mtgr import MTGRRanker
from torchrec_gr.models.mtgr_config import MTGRConfig
from torchrec_gr.models.mtgr_rows import lay_out_rows
from torchrec_gr.sequences.request_batch import RequestBatch
from torchrec_gr.sequences.visibility import dfgr

CONFIG = MTGRConfig(
    dim=8,
    num_layers=2,
    num_heads=2,
    task_hidden=5,
    max_seq_len=20,
    init_std=0.7,
    position_bias=True,
)


def ranker(config: MTGRConfig, num_labels: int = 2) -> MTGRRanker:
    """With random norms and biases too, which begin alike for all groups and positions."""
    torch.manual_seed(0)
    schema = window_schema(("click", "like")[:num_labels])
    model = MTGRRanker(config, schema, TABLE_ROWS, TABLE_DIM)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "position_table" in name:
                parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def assert_equals_its_definition(
    config: MTGRConfig, batch: RequestBatch, num_labels: int = 2
) -> None:
    model = ranker(config, num_labels)
    schema = window_schema(("click", "like")[:num_labels])
    assert_same_as_dense(model, DenseMTGR(model, config, schema), batch)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"position_bias": False},
        {"mask": "causal"},
        {"flow": "dfgr"},
        {"flow": "dfgr", "position_bias": False},
        {"norm_groups": (("user", "static", "real_time", "candidate"),)},
        {"norm_groups": (("candidate",), ("real_time", "user"), ("static",))},
        {"num_layers": 1, "num_heads": 1},
        {"num_layers": 3, "num_heads": 4, "micro_batches": 3},
        {"micro_batches": 50},
    ],
    ids=str,
)
def test_it_equals_its_definition(changes: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    for seed in range(2):
        assert_equals_its_definition(config, batch_of(awkward_windows(seed)))


@pytest.mark.parametrize("flow", ["mtgr", "dfgr"])
def test_requests_as_the_serving_reader_gives_them(flow: Any) -> None:
    config = dataclasses.replace(CONFIG, flow=flow)
    assert_equals_its_definition(config, batch_of(awkward_windows(), of_requests=True))


def test_one_label() -> None:
    assert_equals_its_definition(CONFIG, batch_of(awkward_windows(), num_labels=1), num_labels=1)


def test_a_request_scores_as_the_window_of_its_candidates() -> None:
    windows = [
        window._replace(
            candidates=tuple(
                c._replace(ids=(*c.ids[:3], 2), numbers=(*c.numbers[:2], 0.5))
                for c in window.candidates
            )
        )
        for window in awkward_windows()
    ]
    model = ranker(CONFIG)
    _, served, _ = results(model, batch_of(windows, of_requests=True))
    _, trained, _ = results(model, batch_of(windows))
    assert torch.equal(served, trained)


@pytest.mark.parametrize("flow", ["mtgr", "dfgr"])
@pytest.mark.parametrize("micro_batches", [2, 3, 9, 40])
def test_pieces_give_the_gradients_of_the_whole(flow: Any, micro_batches: int) -> None:
    config = dataclasses.replace(CONFIG, flow=flow)
    in_pieces = dataclasses.replace(config, micro_batches=micro_batches)
    for windows in (awkward_windows(), awkward_windows()[:1], awkward_windows()[2:3]):
        batch = batch_of(windows)
        whole, cut = results(ranker(config), batch), results(ranker(in_pieces), batch)
        torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        _, output = ranker(in_pieces)(batch_of(awkward_windows()))
        _, expected = ranker(config)(batch_of(awkward_windows()))
    assert torch.equal(output.logits, expected.logits)


def test_a_batch_without_labels_is_scored() -> None:
    batch, model = batch_of(awkward_windows()), ranker(CONFIG)
    _, expected, _ = results(model, batch)
    loss, output = model(dataclasses.replace(batch, labels=None))
    assert loss == 0
    assert torch.equal(output.logits, expected)


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_bf16_autocast_is_near(micro_batches: int) -> None:
    batch = batch_of(awkward_windows())
    loss, logits, gradients = results(ranker(CONFIG), batch)
    model = ranker(dataclasses.replace(CONFIG, micro_batches=micro_batches))
    with torch.autocast("cpu", torch.bfloat16):
        half_loss, output = model(batch)
    half_loss.backward()
    assert output.logits is not None
    assert output.logits.dtype == torch.float32
    torch.testing.assert_close(half_loss.detach(), loss, rtol=0.02, atol=0)
    torch.testing.assert_close(output.logits, logits, rtol=0.05, atol=0.05)
    for name, gradient in gradients_of(model).items():
        assert gradient.dtype == torch.float32
        distance = (gradient - gradients[name]).norm() / gradients[name].norm()
        assert distance < 0.1, name


def test_the_order_of_candidates_and_the_company_of_a_row_change_nothing() -> None:
    windows = awkward_windows()
    model = ranker(CONFIG)
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


def test_fake_and_real_flow_are_those_of_dfgr() -> None:
    """Where every event is a candidate, at times that differ."""
    draw = random.Random(3)
    times = [[3, 5, 6, 9], [2], []]
    batch = batch_of([draw_window(draw, of_row, 0, of_row) for of_row in times])
    config = dataclasses.replace(CONFIG, flow="dfgr")
    model = ranker(config)
    inputs = model.body.reader(model.embeddings(batch.ids), batch)
    rows = lay_out_rows(inputs, 0, config)
    expected = dfgr(torch.tensor([0, 8, 10, 10]))
    assert torch.equal(rows.attention.spans.start, expected.start)
    event = torch.tensor([0, 1, 2, 3] * 2 + [0] * 2)
    real = rows.kinds != 3
    assert torch.equal(expected.end.long(), event)
    assert torch.equal(rows.attention.spans.end[~real], expected.end[~real])
    # A real token's own key may lie inside its span: what it sees is the same.
    assert torch.equal(rows.attention.spans.end[real], expected.end[real] + 1)


def test_presets_are_the_papers() -> None:
    sizes = {name: MTGRConfig.preset(name) for name in ("small", "medium", "large")}
    assert {n: (c.num_layers, c.dim, c.num_heads) for n, c in sizes.items()} == {
        "small": (3, 512, 2),
        "medium": (5, 768, 3),
        "large": (15, 768, 3),
    }
    assert MTGRConfig.preset("small", dim=16).dim == 16
    with pytest.raises(ValueError, match="did you mean 'medium'"):
        MTGRConfig.preset("mediun")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": "dynamik"}, "did you mean 'dynamic'"),
        ({"flow": "dgfr"}, "did you mean 'dfgr'"),
        ({"flow": "dfgr", "mask": "causal"}, "leave mask at 'dynamic'"),
        ({"norm_groups": (("user", "static", "real_time"),)}, "expected each of user"),
        (
            {"norm_groups": (("user", "static", "real_time", "candidate"), ("user",))},
            "in one group",
        ),
        ({"num_layers": 0}, "num_layers: expected at least 1, got 0"),
        ({"micro_batches": 0}, "micro_batches: expected at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_a_row_that_is_too_long_and_events_out_of_order_are_named() -> None:
    draw = random.Random(0)
    model = ranker(CONFIG)
    with pytest.raises(ValueError, match="a row has 21 tokens, more than max_seq_len 20"):
        model(batch_of([draw_window(draw, range(10), 0, range(9))]))
    model(batch_of([draw_window(draw, range(10), 0, range(8))]))
    with pytest.raises(ValueError, match="oldest first"):
        model(batch_of([draw_window(draw, [5, 4], 0, [9])]))
