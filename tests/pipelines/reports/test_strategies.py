"""The strategies of a model on made-up runs: who wins, by how much, and when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.reports.comparison import write_report
from pipelines.reports.document import Table, to_markdown
from pipelines.reports.strategies import choose, leaders, strategy_section
from pipelines.results.artifacts import Predictions, save_predictions
from pipelines.results.rows import ResultRow, append_results
from pipelines.results.summary import summarize
from torchrec_gr.metrics import auc


def run(
    strategy: str,
    aucs: Sequence[float],
    validation: Sequence[float | None] | None = None,
    *,
    seeds: int = 3,
    **more: Any,
) -> list[ResultRow]:
    """Runs of one strategy, an epoch a value; seeds differ by 0.0002."""
    pretrained = strategy != "none"
    fields: dict[str, Any] = {
        "model": "gpsd",
        "dim": 8,
        "pretrain": "all users" if pretrained else None,
        "gauc_refused": "made up",
        "pretrain_seconds": 30.0 * pretrained,
        "parameters": 1,
    }
    return [
        ResultRow(
            strategy=strategy,
            seed=seed,
            epoch=epoch,
            auc=of_test + 0.0002 * seed,
            validation_auc=of_validation,
            train_seconds=20.0 * epoch + fields["pretrain_seconds"],
            **{**fields, **more},
        )
        for seed in range(seeds)
        for epoch, (of_test, of_validation) in enumerate(
            zip(aucs, validation or aucs, strict=True), 1
        )
    ]


NONE = run("none", (0.740, 0.750, 0.730))
SPARSE = run("sparse", (0.755, 0.745, 0.735))
FREEZE = run("sparse-freeze", (0.745, 0.757, 0.770), (0.745, 0.750, 0.760))


def words(*runs: Iterable[ResultRow]) -> str:
    blocks = list(strategy_section(summarize([row for rows in runs for row in rows], {}), {}))
    return to_markdown(blocks) if blocks else ""


def test_the_winner_is_chosen_on_validation_and_measured_on_test() -> None:
    text = words(NONE, SPARSE, FREEZE)
    assert "of 2 ways to use pretrained weights, 2 are better than none, 0 worse" in text
    assert (
        "Chosen among 3 by validation AUC, which keeps the test set's luck out of the choice: "
        "sparse-freeze, all users (0.7600) before sparse, all users (0.7550)." in text
    )
    assert "On the test set sparse-freeze, all users wins over no transfer: +0.0200 [" in text
    assert "It is better than sparse, all users (+0.0150 [" in text
    assert "The highest test AUC is that of" not in text


def test_who_leads_changes_over_the_epochs() -> None:
    text = words(NONE, SPARSE, FREEZE)
    assert (
        "After epoch 1 sparse, all users leads on the test set with 0.7552, better than "
        "sparse-freeze, all users (+0.0100 [" in text
    )
    assert (
        "After epoch 3 sparse-freeze, all users leads on the test set with 0.7702, better than "
        "sparse, all users (+0.0350 [" in text
    )


def test_the_table_has_every_epoch_and_no_transfer_first() -> None:
    blocks = list(strategy_section(summarize([*SPARSE, *NONE], {}), {}))
    table = next(block for block in blocks if isinstance(block, Table))
    assert list(table.columns) == [
        *("strategy", "pretrained on", "seeds", "AUC", "less none [95%]", "verdict"),
        *("validation AUC", "chosen epoch", "after 1", "after 2", "after 3"),
        *("train s", "of it pretraining"),
    ]
    none, sparse = table.rows
    assert none == [
        *("none", "-", "3", "0.7502 ± 0.0002", "-", "-", "0.7500", "2"),
        *("0.7402", "0.7502", "0.7302", "40", "-"),
    ]
    assert sparse[:4] == ["sparse", "all users", "3", "0.7552 ± 0.0002"]
    assert sparse[4].startswith("+0.0050 [+0.004")
    assert sparse[5:] == ["better", "0.7550", "1", "0.7552", "0.7452", "0.7352", "50", "30"]


def test_peaks_are_compared_not_the_ends() -> None:
    slow_decay = run("sparse-slow", (0.748, 0.748, 0.748))
    text = words(NONE, slow_decay)
    assert "On the test set sparse-slow, all users is worse than no transfer (-0.0020 [" in text
    assert "no strategy wins" in text
    assert "After epoch 3 sparse-slow, all users leads on the test set with 0.7482" in text


def test_the_highest_on_test_is_said_to_be_lucky() -> None:
    lucky = run("full", (0.758, 0.740, 0.730), (0.745, 0.740, 0.730))
    text = words(NONE, SPARSE, lucky)
    assert "choice: sparse, all users (0.7550) before no transfer (0.7500)." in text
    assert (
        "The highest test AUC is that of full, all users (0.7582), but the highest of 3 is high "
        "partly by chance, so the validation set makes the choice." in text
    )


def test_nothing_told_apart_is_said_so() -> None:
    same = run("sparse", (0.740, 0.7505, 0.730))
    text = words(NONE, same)
    assert "sparse, all users is not told apart from no transfer (+0.0005 [" in text
    assert "no strategy wins" in text
    assert "leads on the test set with 0.7402, not told apart from" in text


def test_one_seed_has_no_verdict() -> None:
    text = words(*(run(s, (0.74, 0.75), seeds=1) for s in ("none", "sparse")))
    assert "sparse, all users is without a verdict against no transfer (+0.0000)" in text
    assert "0.7500 ±" not in text


def test_without_validation_the_choice_is_called_what_it_is() -> None:
    runs = [run(s, (0.74, a), (None, None)) for s, a in (("none", 0.75), ("sparse", 0.76))]
    text = words(*runs)
    assert (
        "Without a validation AUC the choice falls on the highest test AUC, sparse, all users, "
        "which is high partly by chance: it is the best of 2." in text
    )
    assert not choose(summarize([row for rows in runs for row in rows], {})).on_validation


def test_those_that_are_as_far_are_compared() -> None:
    unfinished = [row for row in FREEZE if row.epoch < 3 or row.seed == 0]
    group = summarize([*NONE, *SPARSE, *unfinished], {})
    assert [s.variant.strategy for s in leaders(group, 3)] == ["sparse", "none"]
    assert [s.variant.strategy for s in leaders(group, 2)] == ["sparse-freeze", "none", "sparse"]


def test_a_model_is_not_compared_with_another_of_another_width() -> None:
    wide = run("none", (0.70, 0.71, 0.70), dim=16) + run("full", (0.72, 0.73, 0.70), dim=16)
    text = words(NONE, SPARSE, wide)
    narrow, wider = text.split("### gpsd, dim 16")
    assert "### gpsd, dim 8" in narrow
    assert "full" not in narrow
    assert "full, all users wins over no transfer: +0.0200" in wider
    assert "sparse" not in wider


def test_nothing_transferred_or_nothing_to_hold_it_against() -> None:
    assert words(NONE) == ""
    assert "One strategy only" in words(SPARSE)
    alone = words(SPARSE, FREEZE)
    assert "no transfer has no result yet" in alone
    assert "Each model against itself" not in alone


def test_predictions_narrow_what_one_seed_can_say(tmp_path: Path) -> None:
    """The chance of who is in the test set is counted where predictions are kept."""
    generator = np.random.default_rng(0)
    labels, users = generator.integers(0, 2, 4000), generator.integers(0, 900, 4000)
    base = labels + generator.normal(size=4000)
    for strategy, noise in (("none", 2.0), ("sparse", 1.0), ("full", 0.1)):
        scores = (base + noise * generator.normal(size=4000)).astype(np.float32)
        (row,) = run(strategy, [auc(labels, scores)], seeds=1)
        append_results(tmp_path, [row])
        save_predictions(tmp_path, row.run, Predictions(labels, scores, users, np.arange(4000), 1))
    text = (write_report(tmp_path).parent / "report.md").read_text()
    assert "full, all users wins over no transfer" in text
    assert "It is better than sparse, all users" in text
