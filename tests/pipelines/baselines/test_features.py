"""Features for trees against loops over the raw rows, and that none sees its own label or later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.baselines import features as features_module
from pipelines.baselines.features import TreeFeatures, read_features
from pipelines.baselines.past_labels import PSEUDO_COUNT, PastLabels
from tests.data.clicks import click_schema, clicks, prepare_clicks
from tests.data.crossed_clicks import crossed_schema
from torchrec_gr.data.loader import RequestLoader
from torchrec_gr.data.log_source import ColumnSplit, LogSource
from torchrec_gr.data.prepared_log import prepare
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table
from torchrec_gr.sequences.request_batch import RequestBatch

TEST_FROM = 40 * 3600


def feedback_schema() -> FeatureSchema:
    """Clicks whose history says what was clicked."""
    schema = click_schema(max_history=4)
    click = Feature("history_click", "history", column="click")
    return click_schema(features=(*schema.features, click), tables=(*schema.tables, Table("click")))


def read(folder: Path, rows: pd.DataFrame, schema: FeatureSchema | None = None) -> TreeFeatures:
    folder.mkdir()
    return read_features(prepare_clicks(folder, rows, schema or feedback_schema()), "exposure")


def by_row(features: TreeFeatures) -> dict[int, dict[str, float]]:
    """Row of the log -> its features by name."""
    return {
        int(row): dict(zip(features.names, values.tolist(), strict=True))
        for of_split in features.rows.values()
        for row, values in zip(of_split.source_rows, of_split.values, strict=True)
    }


def history_oracle(rows: pd.DataFrame, row: pd.Series) -> dict[str, float]:
    """What a history of at most four events says of a row, and the labels of its item so far."""
    past = rows[(rows["user"] == row["user"]) & (rows["time"] < row["time"])]
    past = past.sort_values("time", kind="stable").tail(4)
    told: dict[str, float] = {"history_length": len(past)}
    if len(past):
        told["log_seconds_since_last_event"] = np.log1p(row["time"] - past["time"].max())
    for name in ("item", "tag"):
        same = [event for _, event in past.iterrows() if event[name] == row[name]]
        told[f"same_{name}"] = len(same)
    train = rows[rows["time"] < TEST_FROM]
    known = train[train["time"] < row["time"]]
    own = known[known["item"] == row["item"]]["click"]
    prior = (known["click"].sum() + 0.5) / (len(known) + 1)
    mean = (own.sum() + PSEUDO_COUNT * prior) / (len(own) + PSEUDO_COUNT)
    told["rows_item"] = np.log1p(len(own))
    told["lift_item"] = np.log(mean / (1 - mean)) - np.log(prior / (1 - prior))
    return told


def test_features_are_what_loops_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "MAX_CATEGORIES", 6)  # items and hours are large
    rows = clicks()
    found = read(tmp_path / "log", rows)
    assert found.categorical == ("tag",)
    by = by_row(found)
    assert sorted(by) == list(range(len(rows)))
    for number, (_, row) in enumerate(rows.iterrows()):
        expected = history_oracle(rows, row)
        if row["time"] >= TEST_FROM and row["item"] not in set(
            rows[rows["time"] < TEST_FROM]["item"]
        ):
            expected.pop("same_item")  # an unseen item is row 0, which stands for many
        of_row = by[number]
        for name, value in expected.items():
            assert of_row[name] == pytest.approx(value, rel=1e-4, abs=1e-5), (number, name)


def test_feedback_of_matching_events_is_counted(tmp_path: Path) -> None:
    rows = clicks(60, num_users=2)
    rows["time"] = np.arange(60) * 1800  # no ties: which events are the newest is clear
    found = read(tmp_path / "log", rows)
    by = by_row(found)
    log_click = [n for n in found.names if n.startswith("same_tag_share_history_click=")]
    assert len(log_click) == 2
    for number, (_, row) in enumerate(rows.iterrows()):
        past = rows[(rows["user"] == row["user"]) & (rows["time"] < row["time"])].tail(4)
        same = past[past["tag"] == row["tag"]]
        shares = sorted(by[number][name] for name in log_click)
        if len(same):
            share = same["click"].mean()
            assert shares == pytest.approx(sorted([share, 1 - share]))
            steps = len(past) - 1 - np.flatnonzero(past["tag"] == row["tag"]).max()
            assert by[number]["since_tag"] == steps
        else:
            assert all(np.isnan(share) for share in shares)


def test_a_request_has_the_features_that_its_rows_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "MAX_CATEGORIES", 6)
    log = prepare_clicks(tmp_path, clicks(), feedback_schema())
    found = read_features(log, "exposure")
    rows = found.rows["test"]
    expected = dict(zip(rows.source_rows.tolist(), rows.values, strict=True))
    num_seen = 0
    for batch in RequestLoader(log, "test", batch_size=5):
        assert isinstance(batch, RequestBatch)
        for row, values in zip(batch.source_rows.tolist(), found.of_request(batch), strict=True):
            assert np.array_equal(values, expected[row], equal_nan=True)
            num_seen += 1
    assert num_seen == len(expected) > 0


def ordered(folder: Path, rows: pd.DataFrame) -> dict[int, dict[str, float]]:
    """The features of a log whose times are places among each user's events."""
    folder.mkdir()
    rows.to_parquet(folder / "rows.parquet", index=False)
    schema = click_schema(time_unit="order")
    source = LogSource(schema, (folder / "rows.parquet",), ColumnSplit("split"))
    return by_row(read_features(prepare(source, folder / "work"), "exposure"))


def test_an_order_is_no_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place among one user's events says nothing of another's: users come one after another."""
    monkeypatch.setattr(features_module, "MAX_CATEGORIES", 6)
    rows = clicks(200)
    rows["time"] = rows.groupby("user").cumcount()
    rows["split"] = np.where(np.arange(len(rows)) % 4, "train", "test")
    before = ordered(tmp_path / "before", rows)
    train = rows[rows["split"] == "train"]
    first = {user: of_user.index[0] for user, of_user in train.groupby("user")}
    began = train["user"].map(first)
    for number, (_, row) in enumerate(rows.iterrows()):
        known = train if row["split"] == "test" else train[began < first[row["user"]]]
        seen = (known["item"] == row["item"]).sum()
        told = before[number]["rows_item"]
        assert told == pytest.approx(np.log1p(seen))
    user = rows["user"].iloc[-1]
    rows.loc[rows["user"] == user, "click"] = 1 - rows["click"]
    after = ordered(tmp_path / "after", rows)
    for number in train.index[train["user"] == user]:
        assert repr(after[number]) == repr(before[number])


@pytest.mark.parametrize("crossed", [False, True])
def test_nothing_later_and_no_own_label_is_in_a_feature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crossed: bool
) -> None:
    monkeypatch.setattr(features_module, "MAX_CATEGORIES", 6)
    rows = clicks().assign(like=0)
    schema = crossed_schema() if crossed else feedback_schema()
    before = by_row(read(tmp_path / "before", rows, schema))
    for hour in (10, 25, 45):
        changed = rows.copy()
        later = changed["time"] >= hour * 3600
        changed.loc[later, "click"] = 1 - changed.loc[later, "click"]
        after = by_row(read(tmp_path / f"after-{hour}", changed, schema))
        for number in np.flatnonzero(rows["time"] <= hour * 3600).tolist():
            assert repr(after[number]) == repr(before[number])


def test_what_later_rows_are_moves_no_earlier_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "MAX_CATEGORIES", 6)
    rows, hour = clicks(200), 25
    changed = rows.copy()
    later = (changed["time"] >= hour * 3600).to_numpy()
    shuffled = np.random.default_rng(1).permutation(np.flatnonzero(later))
    for name in ("user", "tag", "price"):  # the vocabularies stay what they are
        changed.loc[later, name] = rows[name].to_numpy()[shuffled]
    before, after = (by_row(read(tmp_path / n, r)) for n, r in (("a", rows), ("b", changed)))
    for number in np.flatnonzero(~later).tolist():
        assert repr(after[number]) == repr(before[number])


def test_past_labels_are_strictly_earlier() -> None:
    rng = np.random.default_rng(0)
    ids, moments = rng.integers(0, 4, 50), rng.integers(-5, 9, 50)
    labels = rng.integers(0, 2, 50).astype(np.float32)
    counts, lifts = PastLabels.of(ids, moments, labels).before(ids, moments)
    for i in range(50):
        known = moments < moments[i]
        own = known & (ids == ids[i]) & (ids > 0)
        prior = (labels[known].sum() + 0.5) / (known.sum() + 1)
        mean = (labels[own].sum() + PSEUDO_COUNT * prior) / (own.sum() + PSEUDO_COUNT)
        assert counts[i] == own.sum()
        assert lifts[i] == pytest.approx(np.log(mean / (1 - mean) * (1 - prior) / prior), abs=1e-9)


def test_past_labels_of_an_empty_past() -> None:
    nothing = np.empty(0, np.int64)
    past = PastLabels.of(nothing, nothing, np.empty(0, np.float32))
    counts, lifts = past.before(np.array([0, 3]), np.array([5, -5]))
    assert counts.tolist() == [0, 0]
    assert lifts.tolist() == [0, 0]
