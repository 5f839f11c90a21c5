"""The HSTU benchmark: both ways train and score the same, or no time is printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.models import hstu, hstu_scoring, hstu_training, padded_hstu
from benchmarks.models.hstu_scoring import Scoring, measure_scoring
from benchmarks.models.hstu_training import (
    build_models,
    draw_batch,
    gradients,
    measure_training,
    training_step,
)
from benchmarks.models.mtgr_windows import one_sequence_each
from benchmarks.models.padded_hstu import PaddedResearchLayer
from torchrec_gr.models.hstu_ranker_config import TokenForm
from torchrec_gr.training.process_group import process_group

TRAINING = hstu_training.Case(3, 9, num_negatives=5, dim=16, num_layers=2, num_heads=2)
SCORING = hstu_scoring.Case("mfalcon_5", 5, 7, "interleaved", 2, 2, 16, 2, 2)
TINY = hstu.Plan((TRAINING, TRAINING._replace(max_history=12)), (SCORING,), seconds=0.0)


def test_histories_have_every_length() -> None:
    batch = draw_batch(hstu_training.Case(128, 200))
    lengths = batch.num_history()
    assert lengths.min() == 1
    assert lengths.max() == 200
    assert lengths.float().mean() == pytest.approx(100.5, abs=0.1)
    assert not torch.equal(lengths, lengths.sort().values)
    items = batch.ids[hstu_training.ITEM]
    assert items.values().min() > 0
    assert len(batch.ids[f"negative_{hstu_training.ITEM}"].values()) == 128


def test_both_ways_find_every_gradient() -> None:
    models = build_models(TRAINING)
    padded = models["padded"].body.trunk.layers
    assert all(isinstance(layer, PaddedResearchLayer) for layer in padded)
    assert not any(isinstance(x, PaddedResearchLayer) for x in models["jagged"].modules())
    batch = draw_batch(TRAINING)
    ours, others = (gradients(model, batch) for model in models.values())
    for a, b in zip(ours, others, strict=True):
        assert b.any()
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_both_ways_train_the_same() -> None:
    losses = []
    batch = draw_batch(TRAINING)
    with process_group("cpu"):
        for model in build_models(TRAINING).values():
            torch.manual_seed(1)
            step = training_step(model, batch)
            losses.append([step() for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][2] < losses[0][0]


def test_a_padded_way_that_computes_another_thing_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = padded_hstu.padded_research_attention

    def doubled(*given: Any) -> Tensor:
        return 2 * whole(*given)

    monkeypatch.setattr(padded_hstu, "padded_research_attention", doubled)
    with pytest.raises(RuntimeError, match="results differ by"):
        measure_training(TINY.training, 0.0)


def test_a_sample_of_passes_is_scaled_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"new": 2.0, "kept": 1.0, "each": 30.0}
    monkeypatch.setattr(hstu_scoring, "best_milliseconds", lambda ways, seconds: times)
    new, kept = measure_scoring([SCORING], 0.0)
    assert (new["name"], kept["name"]) == ("mfalcon_5", "mfalcon_5_kept")
    assert (new["other"], new["ratio"], kept["ratio"]) == (75.0, 37.5, 75.0)
    assert new["difference"] <= 1e-5
    whole = Scoring.over
    monkeypatch.setattr(Scoring, "over", lambda self, history: whole(self, history) + 1e-4)
    with pytest.raises(RuntimeError, match="results differ by"):
        measure_scoring([SCORING], 0.0)


@torch.no_grad()
@pytest.mark.parametrize("tokens", ["interleaved", "added"])
def test_all_ways_score_the_same_request(tokens: TokenForm) -> None:
    scoring = Scoring(SCORING._replace(tokens=tokens))
    _, output = scoring.ranker(one_sequence_each(scoring.request))
    for logits in (scoring.anew(), scoring.one_by_one(scoring.singly(torch.arange(5)))):
        torch.testing.assert_close(logits, output.logits)
    assert len(output.logits.unique()) == 10
    assert scoring.candidates.num_history().tolist() == [0]
    assert scoring.history.num_history().tolist() == [7]
    assert scoring.history.num_candidates.tolist() == [0]


@pytest.mark.parametrize("plan", [hstu.FULL, hstu.QUICK], ids=["full", "quick"])
def test_the_issues_rows_are_measured(plan: hstu.Plan) -> None:
    names = [case.name for case in plan.training] + [case.name for case in plan.scoring]
    assert names == ["training_200", "training_1024", "mfalcon_1000", "mfalcon_1000_added"]


def test_the_issues_sizes_are_measured() -> None:
    assert {(case.dim, case.num_layers) for case in hstu.FULL.training} == {(128, 4)}
    sizes = {(case.num_candidates, case.num_history) for case in hstu.FULL.scoring}
    assert sizes == {(1000, 1024)}


def test_figures_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hstu, "QUICK", TINY)
    monkeypatch.setattr(measure, "_MATMUL_SIZES", (64,))
    threads = str(torch.get_num_threads())
    path = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["hstu", "--quick", "--json", str(path), "--threads", threads])
    hstu.main()
    document = json.loads(path.read_text())
    assert document["machine"]["threads"] == torch.get_num_threads()
    rows = {row["name"]: row for row in document["rows"]}
    assert {"training_9", "training_12", "mfalcon_5", "mfalcon_5_kept"} < set(rows)
    for name in ("training_9", "training_12", "mfalcon_5"):
        row = rows[name]
        assert row["ratio"] == row["other"] / row["ours"] > 0
        assert 0 <= row["difference"] <= 1e-4
    assert rows["training_9"]["case"]["padded"] == "attention alone"
    assert rows["training_9_tokens_per_second"]["value"] > 0
    assert "M-FALCON" in capsys.readouterr().out
