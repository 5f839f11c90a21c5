"""What is scored beside models: rows like theirs, on every test set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.baselines.means import score_means
from pipelines.benchmarking.references import score_references
from pipelines.configuration.settings import Settings
from pipelines.results.rows import read_results
from tests.data.clicks import click_schema, clicks
from torchrec_gr.data.log_source import ColumnSplit, LogSource
from torchrec_gr.data.prepared_log import prepare
from torchrec_gr.metrics import auc


def test_a_mean_is_scored_on_further_test_sets_too_and_only_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = clicks(600)
    splits = np.array(["train", "train", "validation", "test", "test_other"])
    rows["split"] = splits[np.random.default_rng(0).integers(0, splits.size, len(rows))]
    rows.to_parquet(tmp_path / "rows.parquet", index=False)
    source = LogSource(click_schema(), (tmp_path / "rows.parquet",), ColumnSplit("split"))
    log = prepare(source, tmp_path / "work")
    settings = Settings(references=("item_mean",))
    for _ in range(2):
        score_references(log, settings, tmp_path)
    assert capsys.readouterr().out.count("item_mean") == 1
    (row,) = read_results(tmp_path)
    scored = score_means(log, "item_mean", settings.history_as_of).predictions
    other = scored["test_other"]
    assert row.metrics["auc_other"] == auc(other.labels[:, 0], other.logits[:, 0])
    assert row.auc == auc(scored["test"].labels[:, 0], scored["test"].logits[:, 0])
    assert row.metrics["auc_other"] != row.auc
    assert row.examples_per_second is not None
    assert row.examples_per_second > 0
