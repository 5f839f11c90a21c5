"""Trees that learn what is there, nothing where nothing is, alike every time, and end in time."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.baselines import features as features_module
from pipelines.baselines.boosted_trees import TreeSettings, train_trees
from pipelines.baselines.features import read_features
from tests.data.clicks import click_schema, clicks
from torchrec_gr.data.loader import RequestLoader
from torchrec_gr.data.log_source import LogSource, TemporalSplit
from torchrec_gr.data.prepared_log import PreparedLog, prepare
from torchrec_gr.metrics import auc
from torchrec_gr.sequences.request_batch import RequestBatch

FEW = TreeSettings(num_leaves=7, min_data_in_leaf=20, num_rounds=40, early_stopping_rounds=10)


def prepared(folder: Path, rows: pd.DataFrame) -> PreparedLog:
    folder.mkdir(exist_ok=True)
    rows.to_parquet(folder / "rows.parquet", index=False)
    split = TemporalSplit(validation_from=40 * 3600, test_from=50 * 3600)
    source = LogSource(schema=click_schema(), rows=(folder / "rows.parquet",), split=split)
    return prepare(source, folder / "work")


def learnable(num_rows: int = 3000) -> pd.DataFrame:
    rows = clicks(num_rows, num_users=40)
    chance = np.where(rows["price"] > 0.5, 0.9, 0.1)
    return rows.assign(click=(np.random.default_rng(1).random(num_rows) < chance).astype(int))


def test_trees_learn_and_are_the_same_every_time(tmp_path: Path) -> None:
    log = prepared(tmp_path, learnable())
    scored, again = (train_trees(log, FEW, 3, "exposure").score_splits() for _ in range(2))
    test = scored.predictions["test"]
    assert set(scored.predictions) == {"validation", "test"}
    assert auc(test.labels[:, 0], test.logits[:, 0]) > 0.85
    assert test.loss < 0.45
    assert (np.diff(test.source_rows) > 0).all()
    assert (test.logits == again.predictions["test"].logits).all()
    assert 2 <= scored.num_parameters <= 40 * 7
    assert scored.num_examples % log.num_rows("train") == 0


def test_a_request_scores_as_its_rows_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "MAX_CATEGORIES", 6)
    log = prepared(tmp_path, learnable())
    trees = train_trees(log, FEW, 3, "exposure")
    expected = trees.score_splits().predictions["test"]
    scored: dict[int, float] = {}
    for batch in RequestLoader(log, "test", batch_size=7):
        assert isinstance(batch, RequestBatch)
        scored |= dict(zip(batch.source_rows.tolist(), trees.score(batch), strict=True))
    assert len(scored) == len(expected.source_rows) > 100
    logits = [scored[row] for row in expected.source_rows.tolist()]
    assert np.allclose(logits, expected.logits[:, 0], rtol=1e-6, atol=0)
    assert trees.size_bytes > 100


def test_no_feature_tells_random_labels_of_the_rows_that_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A feature that knew its own row's label would, on the training rows themselves."""
    monkeypatch.setattr(features_module, "MAX_CATEGORIES", 2)  # mean labels of every id
    found = read_features(prepared(tmp_path, clicks(6000, num_users=60)), "exposure")
    train = found.rows["train"]
    for name, column in zip(found.names, train.values.T, strict=True):
        if name not in found.categorical:
            told = auc(train.labels, np.nan_to_num(column, nan=-1))
            assert abs(told - 0.5) < 0.03, (name, told)


def test_a_share_of_the_rows_and_seconds_that_are_spent(tmp_path: Path) -> None:
    log = prepared(tmp_path, learnable(600))
    num_rows = log.num_rows("train")
    few = TreeSettings(num_leaves=3, min_data_in_leaf=5, num_rounds=4, early_stopping_rounds=4)
    shared = train_trees(log, few, 0, "exposure", rows_share=0.5).score_splits()
    assert shared.num_examples % round(num_rows / 2) == 0
    assert shared.num_examples <= 4 * round(num_rows / 2)
    spent = train_trees(log, few, 0, "exposure", max_seconds=1e-6).score_splits()
    assert spent.num_examples == num_rows  # one tree
    assert np.isfinite(spent.predictions["test"].logits).all()


def test_a_budget_of_seconds_is_not_charged_for_scoring(tmp_path: Path) -> None:
    trees = train_trees(prepared(tmp_path, learnable(600)), FEW, 0, "exposure")
    assert trees.score_splits().seconds == trees.seconds


def test_trees_without_lightgbm_name_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ValueError, match=r"torchrec_gr\[trees\]"):
        train_trees(prepared(tmp_path, learnable(100)), FEW, 0, "exposure")


@pytest.mark.parametrize(
    "wrong",
    [{"num_leaves": 1}, {"learning_rate": 0.0}, {"bagging_fraction": 1.5}, {"num_rounds": 0}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TreeSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("share", "seconds"), [(0.0, None), (1.5, None), (1.0, 0.0)])
def test_shares_and_seconds_out_of_range_are_refused(
    tmp_path: Path, share: float, seconds: float | None
) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        train_trees(
            prepared(tmp_path, learnable(100)),
            FEW,
            0,
            "exposure",
            rows_share=share,
            max_seconds=seconds,
        )
