"""Rows of cold items and of users without a history, against a count by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.evaluation.cold_rows import GROUPS, METRICS, RowFacts, measure_groups, rows_path
from pipelines.reports.cold import cold_section
from pipelines.reports.document import Heading, Paragraph, Table, to_markdown
from pipelines.results.artifacts import Predictions as SavedPredictions
from pipelines.results.artifacts import RunInfo, save_predictions
from pipelines.results.rows import ResultRow
from tests.data.clicks import click_schema, clicks, prepare_clicks
from torchrec_gr.data.loader import HistoryAsOf, RequestLoader
from torchrec_gr.data.log_source import TEST
from torchrec_gr.metrics import auc, normalized_entropy
from torchrec_gr.schema.feature_schema import Table as SchemaTable
from torchrec_gr.training.evaluation import Predictions

TEST_FROM = 40 * 3600


def log_rows() -> pd.DataFrame:
    """Eleven training rows of item 1, two of item 2, one of item 3; six test rows."""
    rows = clicks(20).assign(hour=0, tag=0, user=[*["a"] * 14, *"aabbcc"])
    rows["item"] = [*[1] * 11, 2, 2, 3, 1, 2, 3, 9, 1, 9]
    rows["time"] = [*range(14), *range(TEST_FROM, TEST_FROM + 6)]
    rows["click"] = np.arange(20) % 2
    return rows


def facts_of(
    folder: Path, rows: pd.DataFrame, as_of: HistoryAsOf = "exposure", min_count: int = 1
) -> RowFacts:
    tables = (SchemaTable("hour"), SchemaTable("item", min_count), SchemaTable("tag"))
    log = prepare_clicks(folder, rows, click_schema(tables=tables))
    return RowFacts.of(log, RequestLoader(log, TEST, batch_size=4, history_as_of=as_of))


@pytest.mark.parametrize("min_count", [1, 5])
def test_items_are_counted_in_training_rows_and_events_as_the_model_reads_them(
    tmp_path: Path, min_count: int
) -> None:
    facts = facts_of(tmp_path, log_rows(), min_count=min_count)
    in_test = facts.source_rows >= 14
    assert in_test.all()
    order = {row: place for place, row in enumerate(facts.source_rows)}
    places = [order[row] for row in range(14, 20) if row in order]
    counted = dict(zip(facts.source_rows[places], facts.item_counts[places], strict=True))
    expected = {14: 11, 15: 2, 16: 1, 17: 0, 18: 11, 19: 0}
    assert counted == {row: expected[row] for row in counted}
    lengths = dict(zip(facts.source_rows.tolist(), facts.num_history.tolist(), strict=True))
    assert lengths == {14: 4, 15: 4, 16: 0, 17: 1, 18: 0, 19: 1}


def test_a_null_item_is_in_no_group_of_items(tmp_path: Path) -> None:
    rows = log_rows().astype({"item": "Int64"})
    rows.loc[17, "item"] = pd.NA
    facts = facts_of(tmp_path, rows)
    groups = facts.of_rows(np.arange(14, 20)).groups()
    items = np.stack([groups[g] for g in list(GROUPS)[:3]])
    assert items.sum(axis=0).tolist() == [1, 1, 1, 0, 1, 1]
    assert groups["no_history"].tolist() == [False, False, True, False, True, False]


def predictions(rows: np.ndarray, labels: np.ndarray) -> Predictions:
    logits = np.sin(rows * 1.7).astype(np.float32)[:, None]
    return Predictions(logits, labels[:, None].astype(np.float32), np.zeros_like(rows), rows, 0.0)


def facts(num_rows: int = 400) -> RowFacts:
    rng = np.random.default_rng(0)
    rows = np.arange(0, 3 * num_rows, 3)
    return RowFacts(rows, rng.integers(0, 14, num_rows), rng.integers(0, 3, num_rows))


def test_each_group_is_measured_as_if_it_were_the_whole() -> None:
    known, rng = facts(), np.random.default_rng(1)
    scored = predictions(known.source_rows, rng.integers(0, 2, 400))
    measured = measure_groups(scored, known)
    assert measured.keys() == METRICS
    masks = {
        "item_unseen": [count == 0 for count in known.item_counts],
        "item_under_10": [0 < count < 10 for count in known.item_counts],
        "item_10_or_more": [count >= 10 for count in known.item_counts],
        "no_history": [length == 0 for length in known.num_history],
    }
    for group, rows in masks.items():
        labels, logits = scored.labels[rows, 0], scored.logits[rows, 0]
        assert measured[f"rows_{group}"] == sum(rows)
        assert measured[f"auc_{group}"] == auc(labels, logits)
        assert measured[f"ne_{group}"] == normalized_entropy(labels, logits)


def test_a_group_of_one_class_has_a_number_of_rows_alone() -> None:
    known = facts()
    measured = measure_groups(predictions(known.source_rows, known.item_counts > 0), known)
    assert "rows_item_unseen" in measured
    assert "auc_item_unseen" not in measured
    assert "auc_no_history" in measured


def test_a_log_without_items_and_histories_has_no_groups() -> None:
    none = np.full(5, -1)
    known = RowFacts(np.arange(5), none, none)
    assert measure_groups(predictions(np.arange(5), np.arange(5) % 2), known) == {}


def test_rows_that_nothing_is_known_of_are_refused() -> None:
    with pytest.raises(ValueError, match="not of the test split"):
        facts(5).of_rows(np.array([0, 1]))


def test_facts_are_saved_once_and_read_back(tmp_path: Path) -> None:
    assert RowFacts.load(tmp_path) is None
    known = facts()
    known.save(tmp_path)
    facts(5).save(tmp_path)
    loaded = RowFacts.load(tmp_path)
    assert loaded is not None
    for name in ("source_rows", "item_counts", "num_history"):
        assert np.array_equal(getattr(loaded, name), getattr(known, name))
    rows_path(tmp_path).write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"rows\.npz is damaged"):
        RowFacts.load(tmp_path)


def compared(tmp_path: Path, num_rows: int = 400) -> list[ResultRow]:
    """A baseline and a model that is better on items not seen, three seeds each."""
    known, rng = facts(num_rows), np.random.default_rng(2)
    known.save(tmp_path)
    labels = rng.integers(0, 2, num_rows)
    cold = known.item_counts == 0
    rows = []
    for model, gain in (("dlrm", 0.0), ("dlrm+pinfm@gslt", 4.0)):
        for seed in range(3):
            noise = rng.normal(size=num_rows)
            logits = (noise + labels + gain * cold * labels).astype(np.float32)
            scored = Predictions(
                logits[:, None], labels[:, None], known.source_rows, known.source_rows, 0.0
            )
            row = ResultRow(
                *(model, "none", seed, 1, auc(labels, logits), 1.0, 10, 8),
                validation_auc=0.5,
                gauc_refused="no users",
                metrics=measure_groups(scored, known),
            )
            users = np.arange(num_rows) // 4
            saved = SavedPredictions(labels > 0, logits, users, known.source_rows, 1)
            save_predictions(tmp_path, row.run, saved)
            rows.append(row)
    return rows


def test_the_report_compares_models_within_each_group(tmp_path: Path) -> None:
    rows = compared(tmp_path, 2000)
    blocks = list(cold_section(rows, RunInfo(), tmp_path))
    titles = [block.text for block in blocks if isinstance(block, Heading)]
    unseen = int((facts(2000).item_counts == 0).sum())
    assert titles[0] == "Cold items and empty histories"
    assert titles[1] == f"Items not seen in training: {unseen} rows"
    verdicts = [
        row[list(block.columns).index("verdict")]
        for block in blocks
        if isinstance(block, Table)
        for row in block.rows
        if row[0] == "dlrm+pinfm@gslt"
    ]
    assert verdicts[0] == "better"
    assert verdicts[1:3] == ["not told apart"] * 2
    assert "dlrm+pinfm@gslt" in to_markdown(blocks)


def test_a_small_group_is_not_compared(tmp_path: Path) -> None:
    blocks = list(cold_section(compared(tmp_path, 60), RunInfo(), tmp_path))
    assert any(isinstance(b, Paragraph) and b.text.startswith("Too few") for b in blocks)


def test_results_from_before_have_no_such_section(tmp_path: Path) -> None:
    row = ResultRow("dlrm", "none", 0, 1, 0.6, 1.0, 10, gauc_refused="no users")
    assert not list(cold_section([row], RunInfo(), tmp_path))
