from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from torchrec_gr.data.datasets import synthetic
from torchrec_gr.data.log_source import LogSource, TemporalSplit

SMALL = {
    "num_users": 300,
    "num_items": 200,
    "num_clusters": 8,
    "num_impressions": 20_002,
    "num_organic": 20_000,
}

LIFETIME = 3.5


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> LogSource:
    return synthetic.load(None, tmp_path_factory.mktemp("synthetic"), **SMALL)


@pytest.fixture(scope="module")
def rows(source: LogSource) -> pd.DataFrame:
    return pq.read_table(source.rows[0]).to_pandas()


@pytest.fixture(scope="module")
def events(source: LogSource) -> pd.DataFrame:
    return pq.read_table(source.events[0]).to_pandas()


def test_sizes_and_split(source: LogSource, rows: pd.DataFrame, events: pd.DataFrame) -> None:
    assert (len(rows), len(events)) == (SMALL["num_impressions"], SMALL["num_organic"])
    assert isinstance(source.split, TemporalSplit)
    assert (rows["time_ms"] >= source.split.test_from).mean() == pytest.approx(0.1, abs=0.02)
    assert (rows["time_ms"] >= source.split.validation_from).mean() == pytest.approx(0.2, abs=0.02)


def test_no_feature_is_the_rows_own_outcome(source: LogSource) -> None:
    columns = {f.column for f in source.schema.features if f.role != "history"}
    assert not columns & {"click", "action"}


def test_the_same_seed_draws_the_same_log(source: LogSource, tmp_path: Path) -> None:
    again = synthetic.load(None, tmp_path / "again", **SMALL)
    other = synthetic.load(None, tmp_path / "other", seed=1, **SMALL)
    assert again.notes == source.notes
    for first, second, third in zip(
        (*source.rows, *source.events),
        (*again.rows, *again.events),
        (*other.rows, *other.events),
        strict=True,
    ):
        assert pq.read_table(first).equals(pq.read_table(second))
        assert not pq.read_table(first).equals(pq.read_table(third))


def test_the_draw_is_the_same_everywhere() -> None:
    world = synthetic._draw_world(np.random.default_rng(0), 5, 7, 3)
    assert world.items.cluster.tolist() == [2, 2, 1, 1, 1, 2, 2]


def test_popularity_has_a_head_and_a_long_tail(events: pd.DataFrame) -> None:
    counts = events["item_id"].value_counts().to_numpy()
    assert counts[:20].sum() > 0.4 * counts.sum()
    assert counts[100:].sum() > 0.05 * counts.sum()


def test_a_row_that_was_clicked_is_a_click_in_later_histories(rows: pd.DataFrame) -> None:
    assert (rows["action"] == rows["click"]).all()


def test_an_item_has_one_cluster(rows: pd.DataFrame, events: pd.DataFrame) -> None:
    both = pd.concat([rows[["item_id", "cluster"]], events[["item_id", "cluster"]]])
    assert (both.groupby("item_id")["cluster"].nunique() == 1).all()


def test_impressions_of_a_request_share_its_context(rows: pd.DataFrame) -> None:
    request = rows.groupby(["user_id", "time_ms"])
    assert request.size().mean() > 3.9
    assert (request["session_minutes"].nunique() == 1).all()


def test_tastes_drift_but_not_at_once() -> None:
    taste = synthetic._drift(np.random.default_rng(0), 2_000, 10)
    day = taste.reshape(2_000, synthetic.NUM_DAYS, 10).transpose(1, 0, 2).reshape(30, -1)
    correlation = np.corrcoef(day[[0, 1, 29]])
    assert correlation[0, 1] == pytest.approx(synthetic.TASTE_PERSISTENCE, abs=0.02)
    assert correlation[0, 2] == pytest.approx(synthetic.TASTE_PERSISTENCE**29, abs=0.03)
    assert day.std(axis=1) == pytest.approx(np.ones(30), abs=0.03)


def test_history_tells_of_tastes(rows: pd.DataFrame, events: pd.DataFrame) -> None:
    """Clusters that a user picked in the first days are clicked more often afterwards."""
    early = events[events["time_ms"] < synthetic.START_MS + 10 * synthetic.DAY_MS]
    picked = early.groupby(["user_id", "cluster"]).size()
    share = picked / picked.groupby(level="user_id").transform("sum")
    later = rows[rows["time_ms"] >= synthetic.START_MS + 10 * synthetic.DAY_MS]
    known = share.reindex(pd.MultiIndex.from_frame(later[["user_id", "cluster"]])).fillna(0.0)
    often = known.to_numpy() > 0.25
    assert later["click"][often].mean() > later["click"][~often].mean() + 0.1


def test_labels_are_draws_of_the_probability() -> None:
    rng = np.random.default_rng(0)
    world = synthetic._draw_world(rng, 100, 80, 4)
    table, probability = synthetic._draw_impressions(rng, world, 40_000)
    click = table["click"].to_numpy()
    for low in np.arange(0.0, 1.0, 0.2):
        within = (probability >= low) & (probability < low + 0.2)
        error = 4 * np.sqrt(0.25 / within.sum())
        assert click[within].mean() == pytest.approx(probability[within].mean(), abs=error)


def test_the_default_ceiling_is_neither_trivial_nor_low(tmp_path: Path) -> None:
    source = synthetic.load(None, tmp_path)
    assert 0.75 < source.notes["bayes_auc"] < 0.85


def test_a_size_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_items must be at least 2, got 1"):
        synthetic.load(None, tmp_path, num_items=1)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> LogSource:
    folder = tmp_path_factory.mktemp("stream")
    return synthetic.load(
        None, folder, **(SMALL | {"num_items": 2_000}), item_lifetime_days=LIFETIME
    )


def test_the_log_of_a_seed_is_the_one_it_always_was(
    rows: pd.DataFrame, events: pd.DataFrame
) -> None:
    assert rows["item_id"].head(8).tolist() == [75, 82, 157, 23, 99, 37, 82, 100]
    assert events["item_id"].head(8).tolist() == [78, 135, 125, 23, 23, 136, 116, 82]


def test_items_of_a_stream_live_for_their_lifetime_and_never_come_back(stream: LogSource) -> None:
    met = _days_met(stream)
    first, last = met.groupby("item_id")["day"].min(), met.groupby("item_id")["day"].max()
    assert (last - first).max() <= 3
    assert (first.value_counts().reindex(range(30), fill_value=0) > 20).all()  # new ones every day
    assert len(first) > 1_000


def test_an_item_of_a_stream_fades(stream: LogSource) -> None:
    met = _days_met(stream)
    age = met["day"] - met.groupby("item_id")["day"].transform("min")
    seen_in_full = met.groupby("item_id")["day"].transform("min").between(1, 26)
    assert (np.diff(age[seen_in_full].value_counts().sort_index()) < 0).all()


def test_ids_of_a_stream_are_scattered_over_63_bits() -> None:
    ids = synthetic._scatter(np.arange(100_000))
    assert len(np.unique(ids)) == len(ids)
    assert ids.min() >= 0
    share_of_ones = ((ids[:, None] >> np.arange(63)) & 1).mean(axis=0)
    assert share_of_ones == pytest.approx(np.full(63, 0.5), abs=0.01)
    assert np.bincount(ids % 97, minlength=97) == pytest.approx(np.full(97, 100_000 / 97), rel=0.15)


def test_the_ceiling_of_a_stream_is_known(stream: LogSource) -> None:
    assert 0.75 < stream.notes["bayes_auc"] < 0.85


@pytest.mark.parametrize("lifetime", [0.1, 0.0, -1.0, float("nan")])
def test_a_lifetime_that_leaves_days_without_items_is_refused(
    tmp_path: Path, lifetime: float
) -> None:
    with pytest.raises(ValueError, match="item_lifetime_days: if 200 items live"):
        synthetic.load(None, tmp_path, **SMALL, item_lifetime_days=lifetime)


def _days_met(source: LogSource) -> pd.DataFrame:
    tables = [
        pq.read_table(path, columns=["item_id", "time_ms"])
        for path in (*source.rows, *source.events)
    ]
    met = pd.concat([table.to_pandas() for table in tables])
    met["day"] = (met["time_ms"] - synthetic.START_MS) // synthetic.DAY_MS
    return met
