"""The one-epoch diagnostic on made-up runs whose answer is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.reports.comparison import write_report
from pipelines.reports.diagnostic import diagnostic_section
from pipelines.reports.document import to_markdown
from pipelines.results.diagnostic_summary import (
    Course,
    course,
    effect,
    frozen_tables,
    measured,
    overfitting,
)
from pipelines.results.rows import ResultRow, append_results
from pipelines.results.summary import VariantSummary, summarize

DROPS, FALLS = (0.90, 0.95, 1.00), (0.90, 0.60, 0.40)
FLAT = (0.90, 0.9004, 0.9005)
SPREAD = 0.001


def run(
    strategy: str,
    test: Sequence[float],
    train: Sequence[float] = FALLS,
    *,
    rarely: float = 0.5,
    seeds: int = 3,
    spread: float = SPREAD,
    **more: Any,
) -> list[ResultRow]:
    """Runs of one strategy, an epoch a value; seed s adds s * spread * (epoch - 1) to the test NE.

    The training NE of rows with rarely seen ids falls by the share `rarely` of the fall more.
    """
    rows = []
    for seed in range(seeds):
        for epoch, (of_test, of_train) in enumerate(zip(test, train, strict=True), 1):
            ne = of_test + seed * spread * (epoch - 1)
            fall = train[0] - of_train
            fields: dict[str, Any] = {
                "model": "gpsd",
                "dim": 8,
                "pretrain": None if strategy == "none" else "all users",
                "auc": 0.75,
                "validation_auc": 0.75,
                "gauc_refused": "made up",
                "train_seconds": 1.0,
                "parameters": 1,
                "ne": ne,
                "frozen": ("item",) if strategy.endswith("freeze") else (),
            }
            metrics = {
                "train_ne": of_train,
                "validation_ne": ne,
                "ne_never": ne,
                "ne_rarely": ne,
                "ne_often": ne,
                "train_ne_rarely": of_train - rarely * fall,
                "train_ne_often": of_train,
                "share_never": 0.1,
                "share_rarely": 0.4,
                "share_often": 0.5,
                "train_share_rarely": 0.5,
                "train_share_often": 0.5,
                "rarely_up_to": 7.0,
            }
            metrics = {k: v for k, v in {**metrics, **more}.items() if v is not None}
            row = ResultRow(strategy=strategy, seed=seed, epoch=epoch, metrics=metrics, **fields)
            rows.append(row)
    return rows


def courses(*runs: Iterable[ResultRow]) -> dict[str, Course]:
    kept = measured(summarize([row for rows in runs for row in rows], {}))
    return {summary.variant.strategy: course(summary) for summary in kept}


def words(*runs: Iterable[ResultRow]) -> str:
    summaries: list[VariantSummary] = summarize([row for rows in runs for row in rows], {})
    blocks = list(diagnostic_section(summaries))
    return to_markdown(blocks) if blocks else ""


def verdict(*runs: Iterable[ResultRow]) -> str:
    found = courses(*runs)
    return overfitting(found["none"], frozen_tables(found.values()))


def test_the_course_is_what_a_hand_reckons() -> None:
    of = courses(run("none", DROPS))["none"]
    assert of.best == (1, 1, 1)
    assert of.last == 3
    assert of.rise.values == pytest.approx((0.100, 0.102, 0.104))
    assert of.rise.mean == pytest.approx(0.102)
    assert of.rise.interval == pytest.approx((0.102 - 0.004968, 0.102 + 0.004968), abs=1e-5)
    assert of.fall.values == pytest.approx((0.5, 0.5, 0.5))
    assert of.lowest.mean == pytest.approx(0.9)
    assert of.rare_gap is not None
    assert of.rare_gap.values == pytest.approx((0.25, 0.25, 0.25))
    assert of.drop == "yes"


def test_the_best_epoch_is_not_chosen_on_the_test_rows() -> None:
    rows = [
        row
        for epoch, validation in ((1, 0.92), (2, 0.91), (3, 0.93))
        for row in run("none", (0.90, 0.92, 0.91), validation_ne=validation)
        if row.epoch == epoch
    ]
    of = courses(rows)["none"]
    assert of.best == (2, 2, 2)
    assert of.rise.mean == pytest.approx(-0.01 + SPREAD)
    assert of.drop == "no"
    unseen = courses(run("none", (0.92, 0.90, 0.93), validation_ne=None))["none"]
    assert unseen.chose_on_test
    assert unseen.best == (2, 2, 2)
    assert "by test NE, for want of a validation split" in words(
        run("none", (0.92, 0.90, 0.93), validation_ne=None)
    )


@pytest.mark.parametrize(
    ("test", "train", "spread", "drop", "sentence"),
    [
        (DROPS, FALLS, SPREAD, "yes", "The one-epoch drop happens to gpsd"),
        ((1.0, 0.95, 0.90), FALLS, SPREAD, "no", "The one-epoch drop does not happen to gpsd"),
        (FLAT, FALLS, 0.0, "no", "The one-epoch drop does not happen to gpsd"),
        (DROPS, (0.9, 0.9, 0.9), SPREAD, "no", "rises, but not as overfitting would have it"),
        (DROPS, FALLS, 0.2, "not told", "Whether the one-epoch drop happens to gpsd without"),
    ],
)
def test_whether_the_drop_happens(
    test: tuple[float, ...], train: tuple[float, ...], spread: float, drop: str, sentence: str
) -> None:
    rows = run("none", test, train, spread=spread)
    assert courses(rows)["none"].drop == drop
    assert sentence in words(rows)


SPARSE = run("sparse", (0.90, 0.94, 0.98))
FROZEN = run("sparse-freeze", FLAT)
FROZEN_DROPS = run("sparse-freeze", (0.90, 0.94, 0.98))
IDS, NO_IDS = run("none", DROPS), run("none", DROPS, rarely=0.0)


def test_a_training_ne_that_may_or_may_not_fall_leaves_the_drop_open() -> None:
    rows = [
        dataclasses.replace(row, metrics={**row.metrics, "train_ne": 0.9 - fall * (row.epoch - 1)})
        for fall, of_seed in zip((0.01, 0.03, 0.1), range(3), strict=True)
        for row in run("none", DROPS)
        if row.seed == of_seed
    ]
    assert courses(rows)["none"].drop == "not told"


@pytest.mark.parametrize(
    ("runs", "expected", "sentence"),
    [
        ((IDS, SPARSE, FROZEN), "yes", "Id overfitting is what happens: both signs are there."),
        ((IDS, FROZEN), "yes", "Id overfitting is what happens"),
        ((IDS,), "likely", "Id overfitting is likely what happens"),
        ((IDS, SPARSE, FROZEN_DROPS), "of other tables", "What overfits are the ids of tables"),
        ((NO_IDS, SPARSE, FROZEN), "in part", "id overfitting is shown in part"),
        ((NO_IDS, SPARSE, FROZEN_DROPS), "no", "Id overfitting is not what happens"),
        ((NO_IDS,), "not shown", "That it is id overfitting is not shown"),
        # What pretrained rows alone have stopped, freezing them does not explain.
        ((IDS, run("sparse", FLAT), FROZEN), "likely", "frozen tables neither confirm nor refute"),
    ],
)
def test_whether_ids_overfit(
    runs: tuple[list[ResultRow], ...], expected: str, sentence: str
) -> None:
    assert verdict(*runs) == expected
    assert sentence in words(*runs)


def test_the_signs_are_told_in_numbers() -> None:
    text = words(IDS, SPARSE, FROZEN)
    assert (
        "the test NE moves by +0.1020 [+0.0970 to +0.1070] and the training NE by -0.5000" in text
    )
    assert "widens by +0.2500 [+0.2500 to +0.2500] more on rows of rarely seen ids" in text
    assert (
        "Frozen tables: sparse-freeze, all users, which froze item, has a rise of +0.0025 "
        "[-0.0025 to +0.0075], 3% of the +0.0820 of sparse, all users." in text
    )


@pytest.mark.parametrize(
    ("test", "spread", "expected"),
    [
        (FLAT, SPREAD, "stops it"),
        ((1.0, 0.95, 0.90), SPREAD, "stops it"),
        ((0.90, 0.91, 0.92), 0.01, "stops it"),  # under half, and the interval reaches 0
        ((0.92, 0.9204, 0.9205), SPREAD, "flat but worse"),
        ((0.90, 0.92, 0.93), SPREAD, "lessens it"),
        ((0.90, 0.903, 0.906), 0.0002, "lessens it"),  # under a tenth, and certain
        ((0.90, 1.0, 1.2), SPREAD, "deepens it"),
        (DROPS, 0.002, "not told"),
    ],
)
def test_what_a_strategy_does_to_the_drop(
    test: tuple[float, ...], spread: float, expected: str
) -> None:
    found = courses(IDS, run("sparse", test, spread=spread))
    assert effect(found["sparse"], found["none"]) == expected


def test_which_strategies_stop_it_is_said_the_smallest_rise_first() -> None:
    lower = run("full-freeze", (0.95, 0.92, 0.89), spread=0.0)
    text = words(IDS, SPARSE, FROZEN, lower)
    assert (
        "- Stop it: full-freeze, all users (+0.0000 [+0.0000 to +0.0000], 0% of the rise without "
        "transfer, its best epoch the last); sparse-freeze, all users (+0.0025 [-0.0025 to "
        "+0.0075], 2% of the rise without transfer)." in text
    )
    assert "- Lessen it without stopping it: sparse, all users (+0.0820" in text
    assert "No strategy stops it." not in text
    assert "- No strategy stops it." in words(IDS, SPARSE)


def test_one_seed_has_numbers_and_no_verdict() -> None:
    text = words(run("none", DROPS, seeds=1), run("sparse", FLAT, seeds=1))
    assert "Whether the one-epoch drop happens to gpsd takes two seeds to say." in text
    assert "the test NE moves by +0.1000 and the training NE by -0.5000" in text
    assert "stop" not in text.split("### How to read")[0]


def test_no_bucket_is_no_sign_of_rare_ids() -> None:
    nothing = dict.fromkeys(("ne_never", "ne_rarely", "ne_often", "train_ne_rarely"))
    rows = run("none", DROPS, **nothing)
    assert verdict(rows) == "not shown"
    assert "Rare ids:" not in words(rows).split("### How to read")[0]


def test_the_tables_show_every_epoch_without_transfer_first() -> None:
    text = words(SPARSE, IDS)
    assert "| none | - | 1 | 0.9000 | 0.9000 | 0.9000 | 0.9000 | 0.9000 | 0.9000 | 0.9000 |" in text
    assert "| none | - | 3 | 0.4000 | 0.1500 | 0.4000 | 1.0020 | 1.0020 | 1.0020 | 1.0020 |" in text
    assert text.index("| none |") < text.index("| sparse |")
    assert "Ids seen: 50% rarely, 50% often in the training rows; 10% never, 40% rarely" in text
    assert "Rarely is 1 to 7 times." in text


def test_runs_that_are_not_as_far_are_left_out_until_they_are() -> None:
    unfinished = [row for row in SPARSE if row.epoch < 3 or row.seed == 0]
    found = courses(IDS, unfinished, [row for row in FROZEN if row.epoch < 3])
    assert set(found) == {"none", "sparse"}
    assert found["sparse"].rise.values == pytest.approx((0.08,))


def test_nothing_is_said_without_the_numbers_or_of_one_epoch(tmp_path: Path) -> None:
    assert words(run("none", DROPS, train_ne=None)) == ""
    assert words(run("none", DROPS[:1], FALLS[:1])) == ""
    append_results(tmp_path, run("none", DROPS))
    assert "## The one-epoch drop" in (write_report(tmp_path).parent / "report.md").read_text()
    older = tmp_path / "older"
    append_results(older, [dataclasses.replace(row, metrics={}) for row in run("none", DROPS)])
    assert "## The one-epoch drop" not in (write_report(older).parent / "report.md").read_text()


def test_only_transferred_runs_have_no_drop_to_be_held_against() -> None:
    assert "gpsd did not run without transfer" in words(SPARSE)


def test_the_numbers_are_not_among_the_further_metrics(tmp_path: Path) -> None:
    append_results(tmp_path, run("none", DROPS, auc_matched=0.6))
    text = (write_report(tmp_path).parent / "report.md").read_text()
    further = text.split("## Further metrics")[1].split("##")[0]
    assert "auc_matched" in further
    assert "train_ne" not in further
