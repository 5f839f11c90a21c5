"""Computed features against a loop over everything earlier, and where batches find them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.data.cross_oracle import cross_value, entries
from tests.data.crossed_clicks import (
    TEST_FROM,
    computed_features,
    cross_values,
    crossed_events,
    crossed_rows,
    crossed_schema,
    prepare_crossed,
)
from torchrec_gr.data.datasets import load_dataset
from torchrec_gr.data.known_before import KnownBefore
from torchrec_gr.data.loader import RequestLoader
from torchrec_gr.data.prepared_log import PreparedLog, prepare
from torchrec_gr.schema import Feature, FeatureSchema
from torchrec_gr.sequences.request_batch import NO_TIME

DAY = 86_400


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> PreparedLog:
    return prepare_crossed(tmp_path_factory.mktemp("log"), crossed_rows(), (crossed_events(),))


def everything(rows: pd.DataFrame, *events: pd.DataFrame) -> list[dict[str, Any]]:
    return [entry for frame in (*events, rows) for entry in entries(frame)]


def assert_as_defined(
    values: dict[str, np.ndarray],
    features: tuple[Feature, ...],
    rows: pd.DataFrame,
    known_before: np.ndarray,
    past: list[dict[str, Any]],
) -> None:
    for feature in features:
        expected = [
            cross_value(feature, row, moment, past)
            for row, moment in zip(entries(rows), known_before.tolist(), strict=True)
        ]
        assert np.ptp(expected) > 0, f"{feature.name} would pass with one value for all"
        np.testing.assert_allclose(
            values[feature.name], expected, rtol=1e-5, atol=1e-6, err_msg=feature.name
        )


def test_features_are_what_the_definition_says(log: PreparedLog) -> None:
    rows = crossed_rows()
    assert rows["time"].duplicated().any()
    assert not rows["time"].is_monotonic_increasing
    assert 0.3 < rows["tag"].isna().mean() < 0.7
    past = everything(rows, crossed_events())
    assert_as_defined(cross_values(log), log.schema.computed, rows, rows["time"].to_numpy(), past)


@pytest.mark.parametrize("history_as_of", ["exposure", "day", "split"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_batches_hold_the_past_that_the_history_ends_before(
    log: PreparedLog, split: str, history_as_of: Any
) -> None:
    rows, past = crossed_rows(), everything(crossed_rows(), crossed_events())
    loader = RequestLoader(log, split, batch_size=16, history_as_of=history_as_of, seed=3)
    dense_names = [f.name for f in log.schema.of("candidate", "dense")]
    known_before = KnownBefore(log, split, history_as_of)
    for batch in loader:
        mine = rows.iloc[batch.source_rows.numpy()]
        moments = known_before(mine["time"].to_numpy())
        assert batch.candidate_times.tolist() == moments.tolist()
        for feature in log.schema.computed[::3]:
            expected = [
                cross_value(feature, row, moment, past)
                for row, moment in zip(entries(mine), moments.tolist(), strict=True)
            ]
            if feature.kind == "dense":
                assert batch.dense_candidates is not None
                found = batch.dense_candidates[:, dense_names.index(feature.name)].numpy()
            else:
                found = batch.ids[feature.name].values().numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=feature.name)


def test_impressions_have_them_like_any_other_feature(log: PreparedLog) -> None:
    values = cross_values(log)
    batch = next(iter(RequestLoader(log, "test", batch_size=99, view="impressions")))
    for feature in log.schema.computed:
        mine = torch.from_numpy(values[feature.name][batch.source_rows.numpy()])
        if feature.kind == "categorical":
            assert torch.equal(batch.sparse_features[feature.name].values(), mine)
        else:
            place = log.dense_names.index(feature.name) + 1  # behind the history's length
            assert torch.equal(batch.dense_features[:, place], mine)


def test_a_rank_without_rows_gets_an_empty_request(log: PreparedLog) -> None:
    num_rows = log.num_rows("validation")
    num_candidates = []
    for rank in range(num_rows + 1):
        loader = RequestLoader(
            log, "validation", batch_size=num_rows, rank=rank, world_size=num_rows + 1
        )
        num_candidates += [batch.num_candidates.tolist() for batch in loader]
    assert sorted(num_candidates) == [[0]] + [[1]] * num_rows


def test_ids_unknown_to_training_keep_their_own_past(tmp_path: Path) -> None:
    rows = crossed_rows(40)
    late = rows["time"] >= TEST_FROM
    rows.loc[late, "item"] = 100 + np.arange(late.sum()) % 2  # two items, neither in training
    log = prepare_crossed(tmp_path, rows)
    features = computed_features((("item",),))
    assert_as_defined(cross_values(log), features, rows, rows["time"].to_numpy(), everything(rows))


def test_files_of_events_count_where_they_have_the_columns(tmp_path: Path) -> None:
    rows, plain = crossed_rows(40), crossed_events(12, seed=5)
    rich = crossed_events(12, seed=6).assign(
        hour=1, like=pd.array([0, 1, None] * 4, dtype="Int64"), user="x"
    )
    rich["user"] = 100
    log = prepare_crossed(tmp_path, rows, (plain.drop(columns="click"), rich))
    past = everything(rows, plain.drop(columns="click"), rich)
    assert_as_defined(cross_values(log), log.schema.computed, rows, rows["time"].to_numpy(), past)


def test_a_csv_of_events_keeps_the_columns_of_keys_and_outcomes(tmp_path: Path) -> None:
    rows, events = crossed_rows(40), crossed_events(12, seed=5)
    events["hour"] = 1  # neither an event's feature nor needed: a column of a key
    as_parquet = prepare_crossed(tmp_path / "parquet", rows, (events,))
    events.to_csv(tmp_path / "events.csv", index=False)
    source = dataclasses.replace(as_parquet.source, events=(tmp_path / "events.csv",))
    as_csv = cross_values(prepare(source, tmp_path / "work"))
    for name, values in cross_values(as_parquet).items():
        np.testing.assert_array_equal(as_csv[name], values, err_msg=name)


def test_rows_that_are_no_events_do_not_count(tmp_path: Path) -> None:
    rows, events = crossed_rows(40), crossed_events(30).assign(time=crossed_rows(30, 1)["time"])
    log = prepare_crossed(tmp_path, rows, (events,), rows_are_events=False)
    features = tuple(f for f in computed_features() if f.over == ("item",) and f.of != "like")
    assert_as_defined(
        cross_values(log), features, rows, rows["time"].to_numpy(), everything(events)
    )


def test_a_key_that_is_always_missing_has_no_past(tmp_path: Path) -> None:
    rows = crossed_rows(30).assign(tag=pd.array([None] * 30, dtype="Int64"))
    values = cross_values(prepare_crossed(tmp_path, rows))
    assert (values["count_tag_dense"] == 0).all()
    assert (values["count_user_tag_categorical"] == 0).all()
    assert (values["click_tag_dense"] == 0).all()
    assert (values["recency_tag_dense"] == 0).all()


def test_events_without_a_time_are_earlier_but_never_the_last(tmp_path: Path) -> None:
    events = crossed_events(4).assign(time=NO_TIME, user=100, item=3)
    rows = crossed_rows(9).assign(user=100, item=3, time=np.arange(9) * 10)
    values = cross_values(prepare_crossed(tmp_path, rows, (events,)))
    np.testing.assert_allclose(values["count_item_dense"], np.log1p(4 + np.arange(9)), rtol=1e-6)
    assert values["recency_item_dense"][0] == 0
    assert values["recency_item_categorical"].tolist() == [1] + [5] * 8  # 1 + 10 s: third octave


def test_what_is_looked_up_stays_on_disk(log: PreparedLog) -> None:
    assert log.crosses is not None
    for store in log.crosses.stores.values():
        arrays = [store.groups, store.places, store.starts, *store.sums.values()]
        assert all(isinstance(array, np.memmap) for array in arrays)


def test_tables_of_buckets_have_the_same_rows_in_every_log(tmp_path: Path) -> None:
    one = prepare_crossed(tmp_path / "one", crossed_rows(40))
    other = prepare_crossed(tmp_path / "other", crossed_rows(90, seed=4))
    for feature in one.schema.computed:
        if feature.table:
            assert one.table_rows[feature.table] == other.table_rows[feature.table]
            assert cross_values(other)[feature.name].max() < other.table_rows[feature.table]


def test_without_them_the_log_is_as_if_it_never_had_them(log: PreparedLog, tmp_path: Path) -> None:
    plain = prepare_crossed(
        tmp_path, crossed_rows(), (crossed_events(),), schema=crossed_schema(computed=())
    )
    without = log.without_cross_features()
    assert without.crosses is None
    assert without.schema == plain.schema
    assert without.table_rows == plain.table_rows
    assert without.dense_names == plain.dense_names
    ours, theirs = (
        next(iter(RequestLoader(one, "train", batch_size=30, view="impressions", seed=1)))
        for one in (without, plain)
    )
    assert ours.sparse_features.keys() == theirs.sparse_features.keys()
    assert torch.equal(ours.sparse_features.values(), theirs.sparse_features.values())
    assert torch.equal(ours.dense_features, theirs.dense_features)
    assert plain.without_cross_features().schema == plain.schema


def test_a_schema_of_ones_own_log_may_have_them(tmp_path: Path) -> None:
    rows = crossed_rows(40)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    (tmp_path / "schema.yaml").write_text(crossed_schema().to_yaml())
    source = load_dataset(
        "custom", tmp_path, tmp_path, schema=tmp_path / "schema.yaml", test_from=TEST_FROM
    )
    log = prepare(source, tmp_path / "work")
    assert log.schema == crossed_schema()
    assert_as_defined(
        cross_values(log), log.schema.computed, rows, rows["time"].to_numpy(), everything(rows)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"over": ("user", "itm")}, "rows.parquet: unknown column 'itm': did you mean 'item'"),
        ({"of": "clock"}, "rows.parquet: unknown column 'clock': did you mean 'click'"),
        ({"of": "price"}, "'price', row 0 .* is of is 0, 1 or null"),
    ],
)
def test_a_column_that_cannot_be_used_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    fields = {"statistic": "rate", "over": ("item",), "of": "click", **changes}
    schema = crossed_schema((Feature("x", "candidate", "dense", **fields),))
    with pytest.raises(ValueError, match=message):
        prepare_crossed(tmp_path, crossed_rows(30), schema=schema)
    assert not list((tmp_path / "work").iterdir()), "nothing half prepared is left"


def test_strings_and_numbers_in_one_key_are_refused(tmp_path: Path) -> None:
    schema = FeatureSchema.from_dict(
        {
            **crossed_schema(()).to_dict(),
            "features": [
                {"name": "item", "role": "candidate"},
                {"name": "h", "role": "history", "column": "item"},
                {
                    "name": "x",
                    "role": "candidate",
                    "kind": "dense",
                    "statistic": "count",
                    "over": ["place"],
                },
            ],
            "target": None,
        }
    )
    rows, events = crossed_rows(30).assign(place=1), crossed_events().assign(place="here")
    with pytest.raises(ValueError, match=r"table 'place' has large_string ids, but.*int64"):
        prepare_crossed(tmp_path, rows, (events,), schema=schema)
