"""Smoothed mean labels against loops over the raw rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.baselines.means import PSEUDO_COUNTS, score_means
from tests.data.clicks import click_schema, clicks, prepare_clicks
from torchrec_gr.data.log_source import LogSource, TemporalSplit
from torchrec_gr.data.prepared_log import PreparedLog, prepare
from torchrec_gr.metrics import log_loss

TEST_FROM = 40 * 3600


def log_odds(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def oracle(rows: pd.DataFrame, names: tuple[str, ...], pseudo_count: float) -> np.ndarray:
    """The score of every row, in the log's order."""
    train = rows[rows["time"] < TEST_FROM]
    prior = (train["click"].sum() + 0.5) / (len(train) + 1)
    scores = []
    for _, row in rows.iterrows():
        score = log_odds(prior)
        for name in names:
            own = train[train[name] == row[name]]["click"]
            mean = (own.sum() + pseudo_count * prior) / (len(own) + pseudo_count)
            score += log_odds(mean) - log_odds(prior)
        scores.append(score)
    return np.array(scores)


@pytest.mark.parametrize(
    ("name", "columns"),
    [("item_mean", ("item",)), ("user_mean", ("user",)), ("user_item_mean", ("item", "user"))],
)
def test_scores_are_smoothed_means_of_training_rows(
    tmp_path: Path, name: str, columns: tuple[str, ...]
) -> None:
    rows = clicks()
    rows.loc[rows.index[rows["time"] >= TEST_FROM][0], "item"] = 999  # never trained on
    scored = score_means(prepare_clicks(tmp_path, rows), name, "exposure")  # type: ignore[arg-type]
    test = scored.predictions["test"]
    assert list(scored.predictions) == ["test"]
    expected = oracle(rows, columns, 10.0)[test.source_rows]
    np.testing.assert_allclose(test.logits[:, 0], expected, rtol=1e-5, atol=1e-6)
    assert (test.source_rows == np.flatnonzero(rows["time"] >= TEST_FROM)).all()
    assert (test.labels[:, 0] == rows["click"].to_numpy()[test.source_rows]).all()
    assert test.loss == pytest.approx(log_loss(test.labels[:, 0], test.logits[:, 0]))


def test_the_validation_split_chooses_the_pseudo_count(tmp_path: Path) -> None:
    rows = clicks(300)
    rows.to_parquet(tmp_path / "rows.parquet", index=False)
    split = TemporalSplit(validation_from=TEST_FROM, test_from=50 * 3600)
    source = LogSource(schema=click_schema(), rows=(tmp_path / "rows.parquet",), split=split)
    scored = score_means(prepare(source, tmp_path / "work"), "item_mean", "exposure")
    at = scored.predictions["validation"].source_rows
    labels = rows["click"].to_numpy()[at]
    losses = {c: log_loss(labels, oracle(rows, ("item",), c)[at]) for c in PSEUDO_COUNTS}
    best = min(losses, key=losses.__getitem__)
    assert scored.predictions["validation"].loss == pytest.approx(losses[best], rel=1e-5)


def test_labels_of_test_rows_move_nothing(tmp_path: Path) -> None:
    rows = clicks()
    turned = rows.assign(
        click=np.where(rows["time"] >= TEST_FROM, 1 - rows["click"], rows["click"])
    )
    logits = []
    for folder, frame in (("a", rows), ("b", turned)):
        (tmp_path / folder).mkdir()
        scored = score_means(prepare_clicks(tmp_path / folder, frame), "user_item_mean", "exposure")
        logits.append(scored.predictions["test"].logits)
    assert (logits[0] == logits[1]).all()


def without_users(log: PreparedLog) -> PreparedLog:
    return dataclasses.replace(log, users=None)


def test_what_a_log_lacks_is_said(tmp_path: Path) -> None:
    log = prepare_clicks(tmp_path)
    with pytest.raises(ValueError, match="has none"):
        score_means(without_users(log), "user_mean", "exposure")
    with pytest.raises(ValueError, match="item_mean"):
        score_means(log, "item_means", "exposure")  # type: ignore[arg-type]
    (tmp_path / "no-target").mkdir()
    no_item = prepare_clicks(tmp_path / "no-target", schema=click_schema(target=None))
    with pytest.raises(ValueError, match="names none"):
        score_means(no_item, "item_mean", "exposure")
