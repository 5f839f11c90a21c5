"""Which epoch a run is judged by, what differences are, and when they are called one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.results.artifacts import Predictions, load_predictions, save_predictions
from pipelines.results.resampling import resample_runs
from pipelines.results.rows import ResultRow
from pipelines.results.summary import chosen_rows, difference, summarize
from torchrec_gr.metrics import auc, paired_bootstrap, welch_half_width


def result(model: str, auc: float, seed: int = 0, epoch: int = 1, **fields: Any) -> ResultRow:
    fields = {"strategy": "none", "validation_auc": auc, **fields}
    return ResultRow(
        model=model,
        seed=seed,
        epoch=epoch,
        auc=auc,
        train_seconds=epoch,
        parameters=1,
        gauc_refused="streaming",
        **fields,
    )


def test_a_run_is_judged_by_its_best_validation_epoch_not_its_best_test_epoch() -> None:
    rows = [
        result("dlrm", 0.74, epoch=3, validation_auc=0.70),
        result("dlrm", 0.75, epoch=1, validation_auc=0.71),
        result("dlrm", 0.73, epoch=2, validation_auc=0.72),
        result("dlrm", 0.70, epoch=4, validation_auc=0.72),
        result("dlrm", 0.60, seed=1, epoch=1, validation_auc=None),
        result("dlrm", 0.50, seed=1, epoch=2, validation_auc=None),
    ]
    assert {run.seed: row.epoch for run, row in chosen_rows(rows).items()} == {0: 2, 1: 2}


def test_baselines_are_of_the_same_width_or_the_only_one() -> None:
    rows = [
        result("gpsd", 0.72, dim=64),
        result("dlrm", 0.70, dim=32),
        result("gpsd", 0.74, dim=32, strategy="sparse"),
        result("popularity", 0.6, epoch=0),
    ]
    by_name = {str(s.variant): s for s in summarize(rows, {})}
    assert by_name["gpsd, none, dim 64"].baseline.value == pytest.approx(0.02)
    assert by_name["popularity, none"].baseline.value == pytest.approx(-0.1)
    assert by_name["dlrm, none, dim 32"].baseline is None
    assert by_name["gpsd, sparse, dim 32"].scratch.value == pytest.approx(0.02)

    more = summarize([*rows, result("dlrm", 0.71, dim=64)], {})
    by_name = {str(s.variant): s for s in more}
    assert by_name["gpsd, none, dim 64"].baseline.value == pytest.approx(0.01)
    assert by_name["popularity, none"].baseline is None
    assert [s.variant.dim for s in more] == [None, 32, 32, 64, 64]
    assert [s.variant.model for s in more[1:]] == ["dlrm", "gpsd", "dlrm", "gpsd"]

    own = summarize(rows, {}, baseline_model="gpsd", baseline_strategy="sparse")
    assert {s.variant.model: s.baseline is None for s in own if s.variant.dim == 32} == {
        "dlrm": False,
        "gpsd": True,
    }


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([0.760, 0.7602, 0.7604], [0.75, 0.7502, 0.7504], "better"),
        ([0.740, 0.7402, 0.7404], [0.75, 0.7502, 0.7504], "worse"),
        ([0.760, 0.740, 0.770], [0.75, 0.7502, 0.7504], "not told apart"),
        # sure, but too small to be called one
        ([0.751, 0.7511, 0.7512], [0.75, 0.7501, 0.7502], "not told apart"),
        ([0.9], [0.5], "no verdict"),
        ([0.9, 0.91, 0.92], [0.5], "no verdict"),
    ],
)
def test_verdicts_from_seeds(ours: list[float], theirs: list[float], verdict: str) -> None:
    a = [result("gpsd", value, seed) for seed, value in enumerate(ours)]
    b = [result("dlrm", value, seed) for seed, value in enumerate(theirs)]
    of = difference(a, b, {})
    assert of.verdict == verdict
    assert of.value == pytest.approx(np.mean(ours) - np.mean(theirs))
    half = welch_half_width(ours, theirs)
    if half is None:
        assert of.interval is None
    else:
        assert of.interval == of.seeds == pytest.approx((of.value - half, of.value + half))


def test_what_is_not_trained_has_no_chance_in_training() -> None:
    popularity = [result("popularity", 0.6, epoch=0)]
    dlrm = [result("dlrm", value, seed) for seed, value in enumerate([0.75, 0.7502, 0.7504])]
    of = difference(popularity, dlrm, {})
    assert of.verdict == "worse"
    assert of.seeds is not None
    assert of.seeds.high - of.value == pytest.approx(4.303 * 0.0002 / np.sqrt(3))


def scored(out_dir: Path, model: str, seed: int, noise: float) -> ResultRow:
    """A run whose predictions are kept, of a test set that all share."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 3000)
    users = generator.integers(0, 500, 3000)
    scores = labels + generator.normal(size=3000)
    scores += noise * np.random.default_rng(seed + 1).normal(size=3000)
    scores = scores.astype(np.float32)
    row = result(model, auc(labels, scores), seed)
    save_predictions(out_dir, row.run, Predictions(labels, scores, users, np.arange(3000), 1))
    return row


def test_users_and_seeds_join_in_one_interval(tmp_path: Path) -> None:
    a = [scored(tmp_path, "gpsd", seed, 0.3) for seed in range(3)]
    b = [scored(tmp_path, "dlrm", seed, 0.8) for seed in range(3)]
    resampled = resample_runs(tmp_path, chosen_rows([*a, *b]))
    both = difference(a, b, resampled)
    assert both.seeds is not None
    assert both.users is not None
    assert both.interval is not None
    assert both.verdict == "better"
    halves = [(i.high - i.low) / 2 for i in (both.interval, both.seeds, both.users)]
    assert halves[0] > max(halves[1:])
    assert halves[0] == pytest.approx(np.hypot(*halves[1:]), rel=0.05)

    one = difference(a[:1], b[:1], resampled)
    assert one.seeds is None
    generator = np.random.default_rng(0)
    labels, users = generator.integers(0, 2, 3000), generator.integers(0, 500, 3000)
    ours, theirs = (load_predictions(tmp_path, row.run) for row in (a[0], b[0]))
    assert ours is not None
    assert theirs is not None
    paired = paired_bootstrap(labels, ours.scores, theirs.scores, users)
    assert one.users == pytest.approx((paired.low, paired.high))
    assert one.value == pytest.approx(paired.value)


def test_predictions_of_another_epoch_are_passed_over(tmp_path: Path) -> None:
    row = scored(tmp_path, "dlrm", 0, 0.1)
    later = result("dlrm", 0.9, epoch=2)
    assert list(resample_runs(tmp_path, chosen_rows([row]))) == [row.run]
    assert resample_runs(tmp_path, chosen_rows([row, later])) == {}


def test_predictions_that_do_not_fit_are_named(tmp_path: Path) -> None:
    row = scored(tmp_path, "dlrm", 0, 0.1)
    with pytest.raises(ValueError, match=r"dlrm\.none\.s0\.npz has AUC .* results\.json says 0\.9"):
        resample_runs(tmp_path, chosen_rows([result("dlrm", 0.9)]))
    other = result("gpsd", 1.0)
    save_predictions(
        tmp_path,
        other.run,
        Predictions(np.array([0, 1]), np.array([0.0, 1.0]), np.array([1, 2]), np.arange(2), 1),
    )
    with pytest.raises(ValueError, match="score different rows, labels or users"):
        resample_runs(tmp_path, chosen_rows([row, other]))
