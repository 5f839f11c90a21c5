"""What is called a fall against earlier results, and what is left to chance."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.benchmarking.regression import regressions
from pipelines.results.rows import ResultRow, Variant
from torchrec_gr.metrics import welch_half_width

SCATTERED = (0.750, 0.760, 0.755)


def row(model: str, seed: int, auc: float, epoch: int = 1, **more: Any) -> ResultRow:
    more = {"gauc_refused": "streaming", "validation_auc": auc, **more}
    return ResultRow(model, "none", seed, epoch, auc, 1.0, 10, 16, **more)


def seeds(model: str, aucs: tuple[float, ...], **more: Any) -> list[ResultRow]:
    return [row(model, seed, auc, **more) for seed, auc in enumerate(aucs)]


def test_the_same_results_are_no_fall() -> None:
    rows = seeds("dlrm", SCATTERED) + seeds("mtgr", (0.7, 0.7))
    assert regressions(rows, rows) == []
    assert regressions(list(reversed(rows)), rows) == []


def test_a_fall_beyond_what_seeds_explain_is_named_in_words() -> None:
    now = tuple(auc - 0.03 for auc in SCATTERED)
    (found,) = regressions(seeds("dlrm", now), seeds("dlrm", SCATTERED))
    assert found.metric == "auc"
    assert found.band == welch_half_width(now, SCATTERED)
    assert str(found) == (
        "dlrm, none, dim 16: auc fell from 0.7550 to 0.7250, by 0.0300, more than its noise band "
        f"of {found.band:.4f}"
    )


def test_a_fall_within_the_spread_of_seeds_is_not_called_one() -> None:
    now = tuple(auc - 0.005 for auc in SCATTERED)
    assert welch_half_width(now, SCATTERED) > 0.005
    assert regressions(seeds("dlrm", now), seeds("dlrm", SCATTERED)) == []


@pytest.mark.parametrize(("fall", "count"), [(0.0014, 0), (0.0016, 1), (-0.1, 0)])
def test_without_a_spread_the_smallest_difference_is_the_band(fall: float, count: int) -> None:
    for num_seeds in (1, 3):  # one seed has no spread; three equal ones have none either
        now, then = (0.75 - fall,) * num_seeds, (0.75,) * num_seeds
        assert len(regressions(seeds("dlrm", now), seeds("dlrm", then))) == count


def test_ne_and_log_loss_fall_by_rising_and_gauc_counts_where_both_have_it() -> None:
    worse = seeds("dlrm", (0.75,), ne=0.91, log_loss=0.51, gauc=0.60, gauc_refused=None)
    better = seeds("dlrm", (0.75,), ne=0.90, log_loss=0.50, gauc=0.61, gauc_refused=None)
    assert [found.metric for found in regressions(worse, better)] == ["gauc", "ne", "log_loss"]
    assert regressions(better, worse) == []
    assert "ne rose from 0.9000 to 0.9100" in str(regressions(worse, better)[1])
    without = seeds("dlrm", (0.75,))
    assert regressions(without, better) == regressions(worse, without) == []


def test_runs_are_held_by_their_chosen_epochs() -> None:
    then = [row("dlrm", 0, 0.75, epoch=1), row("dlrm", 0, 0.74, epoch=2)]
    now = [row("dlrm", 0, 0.75, epoch=1), row("dlrm", 0, 0.60, epoch=2)]
    assert regressions(now, then) == []
    fallen = [row("dlrm", 0, 0.60, epoch=1, validation_auc=0.8), *now[1:]]
    assert len(regressions(fallen, then)) == 1


def test_a_missing_variant_is_a_fall_and_a_new_one_is_not() -> None:
    now, then = seeds("new", (0.5,)), seeds("gone", (0.75,))
    (found,) = regressions(now, then)
    assert found.variant == Variant("gone", "none", 16, None)
    assert str(found) == "gone, none, dim 16: it is in the earlier results and missing now"


def test_nothing_to_hold_against_is_refused() -> None:
    with pytest.raises(ValueError, match="earlier results are empty"):
        regressions(seeds("dlrm", (0.7,)), [])
