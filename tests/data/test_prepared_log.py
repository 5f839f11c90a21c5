"""Preparing a log: vocabularies of the training window, encoded blocks, reuse, bad input."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrec_gr.data import log_file, prepared_folder
from torchrec_gr.data.log_source import ColumnSplit, LogSource, TemporalSplit
from torchrec_gr.data.prepared_log import PreparedLog, prepare
from torchrec_gr.data.rows import Rows
from torchrec_gr.schema import Feature, FeatureSchema, Table
from torchrec_gr.sequences.request_batch import NO_AGE, NO_TIME

SCHEMA = FeatureSchema(
    name="clicks",
    labels=("click", "buy"),
    features=(
        Feature("hour", "contextual"),
        Feature("item", "candidate"),
        Feature("price", "candidate", "dense", transform="log1p"),
        Feature("h_item", "history", column="item"),
        Feature("h_click", "history", column="click"),
    ),
    tables=(Table("hour"), Table("item"), Table("click")),
    user="user",
    time="time",
    max_history=2,
    target="h_item",
)
SPLIT = TemporalSplit(validation_from=60, test_from=80)


def impressions(**columns: Any) -> pd.DataFrame:
    """Ten impressions in no order of time: six to train on, two to validate, two to test."""
    frame = pd.DataFrame(
        {
            "user": [7, 3, 7, 7, 3, 9, 7, 7, 3, 7],
            "time": [50, 10, 20, 90, 65, 5, 70, 30, 80, 20],
            "item": [11, 12, 13, 14, 15, 11, 12, 11, 11, 16],
            "hour": list("abcabcabca"),
            "price": [0.0, 1, -2, 3, 4, 5, 6, 7, 8, 9],
            "click": [0, 1, 0, 1, 0, 1, 0, 1, 0, 1],
            "buy": [0.0] * 10,
        }
    )
    return frame.assign(**columns)


def write(folder: Path, frame: pd.DataFrame, name: str = "rows.parquet", rows: int = 4) -> Path:
    path = folder / name
    frame.to_parquet(path, row_group_size=rows, index=False)
    return path


def prepared(folder: Path, frame: pd.DataFrame | None = None, **fields: Any) -> PreparedLog:
    rows = fields.pop("rows", None) or (write(folder, impressions() if frame is None else frame),)
    previous = fields.pop("previous", None)
    source = LogSource(**({"schema": SCHEMA, "rows": rows, "split": SPLIT} | fields))
    return prepare(source, folder / "work", previous)


def all_rows(log: PreparedLog) -> list[Rows]:
    return [log.read_block(i) for i in range(len(log.blocks))]


def column(log: PreparedLog, name: str) -> list[Any]:
    return np.concatenate([rows.ids[name] for rows in all_rows(log)]).tolist()


def raw(log: PreparedLog, table: str, rows: Any) -> list[Any]:
    """The raw ids of table rows; None for row 0."""
    ids = [None, *log.vocabularies[table].raw_ids]
    return [ids[row] for row in rows]


# What is kept


def test_held_out_values_unknown_to_training_are_counted(tmp_path: Path) -> None:
    counts = prepared(tmp_path).counts
    assert counts["held-out values of item unknown to training"] == 2  # 14 and 15
    assert not any("values of hour" in what for what in counts)


def test_vocabularies_hold_the_training_window_alone_and_count_each_value_once(
    tmp_path: Path,
) -> None:
    log = prepared(tmp_path)
    train = impressions().query("time < 60")
    expected = train["item"].value_counts().sort_index()
    assert log.vocabularies["item"].raw_ids.tolist() == expected.index.tolist()
    assert log.vocabularies["item"].counts.tolist() == [0, *expected]
    assert log.table_rows == {"hour": 4, "item": 5, "click": 3}


def test_rows_are_encoded_as_they_stand_in_the_files(tmp_path: Path) -> None:
    log = prepared(tmp_path)
    frame = impressions()
    known = set(frame.query("time < 60")["item"])
    assert raw(log, "item", column(log, "item")) == [i if i in known else None for i in frame.item]
    assert raw(log, "hour", column(log, "hour")) == list(frame.hour)
    blocks = all_rows(log)
    assert [len(rows) for rows in blocks] == [4, 4, 2]
    joined = {
        name: np.concatenate([getattr(rows, name) for rows in blocks])
        for name in ("user_index", "times", "labels", "source_rows", "split")
    }
    assert log.raw_users[joined["user_index"]].tolist() == list(frame.user)
    assert joined["times"].tolist() == list(frame.time)
    assert joined["source_rows"].tolist() == list(range(10))
    assert joined["labels"].tolist() == frame[["click", "buy"]].to_numpy().tolist()
    windows = np.searchsorted([60, 80], frame.time, side="right")
    assert joined["split"].tolist() == windows.tolist()
    price = np.concatenate([rows.dense["price"] for rows in blocks])
    assert price.dtype == np.float32
    np.testing.assert_allclose(price, np.sign(frame.price) * np.log1p(abs(frame.price)), rtol=1e-6)


def test_splits_blocks_and_rows_are_counted(tmp_path: Path) -> None:
    log = prepared(tmp_path)
    assert log.splits == ("train", "validation", "test")
    assert [log.num_rows(split) for split in log.splits] == [6, 2, 2]
    assert [(b.first_row, b.num_rows, b.counts) for b in log.blocks] == [
        (0, 4, (3, 0, 1)),
        (4, 4, (2, 2, 0)),
        (8, 2, (1, 0, 1)),
    ]
    assert log.dense_names == ["price"]
    assert log.num_users == 3
    with pytest.raises(ValueError, match="did you mean 'test'"):
        log.num_rows("tset")


def test_the_history_of_a_row_is_what_its_user_saw_strictly_before(tmp_path: Path) -> None:
    log = prepared(tmp_path)
    frame = impressions()
    rows = log.read_block(0)
    assert log.events is not None
    _, start, end = log.events.before(rows.user_index, rows.times)
    for i in range(4):
        mine = frame[(frame.user == frame.user[i]) & (frame.time < frame.time[i])]
        mine = mine.sort_values("time", kind="stable").tail(2)
        known = [i if i in log.vocabularies["item"].raw_ids else None for i in mine["item"]]
        assert raw(log, "item", log.events.rows["h_item"][start[i] : end[i]]) == known
        seen = log.events.rows["h_click"][start[i] : end[i]]
        assert raw(log, "click", seen) == list(mine["click"])


def test_several_files_are_one_log(tmp_path: Path) -> None:
    frame = impressions()
    one = prepared(tmp_path, frame)
    paths = (write(tmp_path, frame[:3], "a.parquet"), write(tmp_path, frame[3:], "b.parquet", 5))
    many = prepared(tmp_path, rows=paths)
    assert column(many, "item") == column(one, "item")
    assert np.concatenate([r.source_rows for r in all_rows(many)]).tolist() == list(range(10))
    assert one.events is not None
    assert many.events is not None
    assert many.events.rows["h_item"].tolist() == one.events.rows["h_item"].tolist()


def test_csv_equals_parquet_and_ids_may_be_missing(tmp_path: Path) -> None:
    frame = impressions(item=pd.array([11, None, 13, 14, 15, 11, 12, 11, None, 16], "Int64"))
    frame.to_csv(tmp_path / "rows.csv", index=False)
    csv = prepared(tmp_path, rows=(tmp_path / "rows.csv",))
    parquet = prepared(tmp_path, frame)
    assert column(csv, "item") == column(parquet, "item")
    assert column(csv, "hour") == column(parquet, "hour")
    assert column(parquet, "item")[1] == column(parquet, "item")[8] == 0
    assert csv.counts["null ids in item, taken for unknown"] == 2


def test_a_file_of_large_row_groups_is_read_in_small_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = column(prepared(tmp_path), "item")
    monkeypatch.setattr(log_file, "BLOCK_ROWS", 3)
    log = prepared(tmp_path, rows=(write(tmp_path, impressions(), "one.parquet", rows=10),))
    assert [block.num_rows for block in log.blocks] == [3, 3, 3, 1]
    assert column(log, "item") == expected
    events = (write(tmp_path, impressions(), "events.parquet", rows=10),)
    assert prepared(tmp_path, events=events, rows_are_events=False).counts["events"] == 10
    assert not list((tmp_path / "work").glob("*/events-*")), "copies of events are not kept"


def test_further_events_precede_rows_and_count_in_the_vocabulary(tmp_path: Path) -> None:
    events = pd.DataFrame(
        {
            "user": [7, 7, 42, 7],
            "time": [NO_TIME, NO_TIME, 1, 85],
            "item": [21, 22, 21, 23],
            "click": [1, 1, 0, 1],
        }
    )
    log = prepared(tmp_path, events=(write(tmp_path, events, "events.parquet"),))
    assert 42 in log.raw_users, "a user without impressions"
    items = log.vocabularies["item"]
    assert items.counts[items.rows(np.array([21, 22]))].tolist() == [2, 1]
    assert items.rows(np.array([23])).tolist() == [0], "an event of the test window"
    assert log.events is not None
    first = log.events.user_starts[log.raw_users.tolist().index(7)]
    assert raw(log, "item", log.events.rows["h_item"][first : first + 3]) == [21, 22, 13]
    alone = prepared(tmp_path, events=log.source.events, rows_are_events=False)
    assert alone.events is not None
    assert alone.events.num_events == 4


def test_a_column_can_name_the_splits_of_rows_and_events(tmp_path: Path) -> None:
    frame = impressions(part=["train"] * 5 + ["test_hard"] * 2 + ["test"] * 3)
    events = pd.DataFrame(
        {
            "user": [7, 3, 9],
            "time": [NO_TIME] * 3,
            "item": [31, 32, 33],
            "click": [1, 1, 1],
            "part": ["train", "test", "train"],
        }
    )
    log = prepared(
        tmp_path,
        frame,
        split=ColumnSplit("part"),
        events=(write(tmp_path, events, "events.parquet"),),
        event_split="part",
        rows_are_events=False,
    )
    assert log.splits == ("train", "test", "test_hard")
    assert [log.num_rows(split) for split in log.splits] == [5, 3, 2]
    assert np.concatenate([rows.split for rows in all_rows(log)]).tolist() == (
        [0] * 5 + [2] * 2 + [1] * 3
    )
    assert log.events is not None
    _, positions = log.events.select(["train"])
    assert raw(log, "item", log.events.rows["h_item"][positions]) == [31, 33]
    assert log.vocabularies["item"].rows(np.array([32])).tolist() == [0]
    assert log.split_as_of is None


def test_a_log_without_users_times_or_history(tmp_path: Path) -> None:
    schema = FeatureSchema(
        name="ads", labels=("click",), features=(Feature("item", "candidate"),),
        tables=(Table("item"),),
    )  # fmt: skip
    frame = impressions(part=["train"] * 5 + ["test"] * 5)
    log = prepared(tmp_path, frame, schema=schema, split=ColumnSplit("part"))
    assert log.events is None
    assert log.num_users == 0
    assert log.read_block(0).user_index.tolist() == [-1] * 4
    assert log.read_block(0).times.tolist() == [0] * 4
    assert log.gauc_refusal("exposure") == "the log has no users to group by"


def test_timestamps_become_the_unit_of_the_schema(tmp_path: Path) -> None:
    times = pd.to_datetime(impressions().time, unit="ms").astype("datetime64[us]")
    log = prepared(tmp_path, impressions(time=times))
    assert log.read_block(0).times.tolist() == [50, 10, 20, 90]


DAY_MS = 86_400_000
MADE = [50, 51, 50 - DAY_MS, 51 - DAY_MS, 50 - 3 * DAY_MS, None, 90, -(10**15), 50, NO_TIME]
AGES = [0, 0, 1, 0, 3, NO_AGE, 0, 10**15 // DAY_MS, 0, NO_AGE]
WITH_AGES = dataclasses.replace(SCHEMA, item_time="made")


@pytest.mark.parametrize("layout", ["parquet", "csv", "timestamps"])
def test_item_ages_are_whole_days_since_the_item_time(tmp_path: Path, layout: str) -> None:
    made = pd.array(MADE, "Int64")
    if layout == "timestamps":  # a coarser unit than the log's, which still counts in days
        made = pd.array([t if t == NO_TIME else t * 1000 for t in made.fillna(NO_TIME)], "Int64")
        made = made.to_numpy(np.int64).view("datetime64[us]")
    frame = impressions(time=50, made=made)
    if layout == "csv":
        frame.to_csv(tmp_path / "rows.csv", index=False)
        log = prepared(tmp_path, rows=(tmp_path / "rows.csv",), schema=WITH_AGES)
    else:
        log = prepared(tmp_path, frame, schema=WITH_AGES)
    found = [rows.item_ages for rows in all_rows(log)]
    assert all(ages is not None and ages.dtype == np.int64 for ages in found)
    assert np.concatenate(found).tolist() == AGES  # type: ignore[arg-type]
    assert log.counts["null times in made, age unknown"] == 2
    assert log.counts["rows earlier than made, age taken for 0"] == 2
    taken = next(rows for rows in all_rows(log) if len(rows)).take(np.array([2, 1]))
    assert taken.item_ages is not None
    assert taken.item_ages.tolist() == [1, 0]


def test_item_ages_count_in_the_unit_of_the_log(tmp_path: Path) -> None:
    schema = dataclasses.replace(WITH_AGES, time_unit="s")
    frame = impressions(time=86_400 * 2, made=[0, 1, 86_400, 86_401, *[0] * 6])
    log = prepared(tmp_path, frame, schema=schema, split=TemporalSplit(10**6, 10**6))
    ages = log.read_block(0).item_ages
    assert ages is not None
    assert ages.tolist() == [2, 1, 1, 0]


def test_without_an_item_time_there_are_no_ages(tmp_path: Path) -> None:
    rows = prepared(tmp_path).read_block(0)
    assert rows.item_ages is None
    assert rows.take(np.array([0])).item_ages is None


def test_a_missing_or_wrong_item_time_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows\.parquet: unknown column 'made': .*valid: "):
        prepared(tmp_path, schema=WITH_AGES)
    with pytest.raises(ValueError, match=r"'made' has type (large_)?string, expected integers in"):
        prepared(tmp_path, impressions(made="2022-04-10"), schema=WITH_AGES)


def test_what_was_mended_dropped_and_cut_is_counted_and_printed(tmp_path: Path) -> None:
    price = [0.0, None, np.inf, 3, 4, 5, -np.inf, 7, 8, 9]
    table = pa.Table.from_pandas(impressions(), preserve_index=False)
    nan = pa.array([*price[:9], float("nan")], pa.float64())
    table = table.set_column(table.schema.get_field_index("price"), "price", nan)
    pq.write_table(table, tmp_path / "rows.parquet")
    log = prepared(
        tmp_path,
        rows=(tmp_path / "rows.parquet",),
        dropped={"duplicate": np.int64(3)},
        notes={"bayes_auc": 0.81},
    )
    assert log.counts["null numbers in price, taken for 0"] == 1
    assert log.counts["NaN or infinite numbers in price, taken for 0"] == 3
    assert log.read_block(0).dense["price"][[1, 2, 6, 9]].tolist() == [0, 0, 0, 0]
    # User 7 has seen 3 things before 50, 4 before 70 and 5 before 90; nobody else more than 2.
    assert log.counts["rows with a longer history, cut to the newest 2 events"] == 3
    report = log.report()
    for line in ("10  rows", "6  rows in train", "3  dropped: duplicate", "0.81  bayes_auc"):
        assert line in report


def test_rare_ids_share_row_0_and_are_counted(tmp_path: Path) -> None:
    schema = FeatureSchema.from_dict(
        SCHEMA.to_dict()
        | {"tables": [{"name": "hour"}, {"name": "item", "min_count": 2}, {"name": "click"}]}
    )
    log = prepared(tmp_path, schema=schema)
    assert log.vocabularies["item"].raw_ids.tolist() == [11]
    rare = "training values of table item seen under 2 times, taken for unknown"
    assert log.counts[rare] == 3


@pytest.mark.parametrize("history_as_of", ["exposure", "day"])
def test_gauc_is_refused_where_histories_stream_through_the_test_window(
    tmp_path: Path, history_as_of: str
) -> None:
    log = prepared(tmp_path)
    assert "history_as_of='split'" in (log.gauc_refusal(history_as_of) or "")
    assert log.gauc_refusal("split") is None
    assert log.split_as_of == {"validation": 60, "test": 80}


@pytest.mark.parametrize("rows_are_events", [True, False])
def test_without_times_to_split_by_gauc_is_refused_if_scored_rows_become_history(
    tmp_path: Path, rows_are_events: bool
) -> None:
    frame = impressions(part=["train", "test"] * 5)
    events = write(tmp_path, frame, "events.parquet")
    log = prepared(
        tmp_path,
        frame,
        split=ColumnSplit("part"),
        events=(events,),
        event_split="part",
        rows_are_events=rows_are_events,
    )
    assert (log.gauc_refusal("exposure") is not None) == rows_are_events


# What is reused


def count_scans(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    scanned: list[Path] = []
    scan = prepared_folder.scan

    def counted(source: LogSource, folder: Path) -> Any:
        scanned.append(folder)
        return scan(source, folder)

    monkeypatch.setattr(prepared_folder, "scan", counted)
    return scanned


def test_a_prepared_log_is_opened_again_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned = count_scans(monkeypatch)
    rows = (write(tmp_path, impressions()),)
    first = prepared(tmp_path, rows=rows)
    again = prepared(tmp_path, rows=rows)
    assert len(scanned) == 1
    assert column(again, "item") == column(first, "item")
    assert again.counts == first.counts
    prepared(tmp_path, rows=rows, split=TemporalSplit(50, 80))
    assert len(scanned) == 2
    prepared(tmp_path, rows=rows, previous={"item": first.vocabularies["item"]})
    assert len(scanned) == 3
    write(tmp_path, impressions(click=1))
    prepared(tmp_path, rows=rows)
    assert len(scanned) == 4
    os.utime(rows[0], ns=(0, 0))
    prepared(tmp_path, rows=rows)
    assert len(scanned) == 5, "a file of the same size that was written at another time"


def test_a_later_log_extends_the_vocabularies(tmp_path: Path) -> None:
    old = prepared(tmp_path).vocabularies
    later = impressions(item=[99, 5, 13, 11, 11, 11, 11, 11, 11, 11])
    (tmp_path / "later").mkdir()
    new = prepared(tmp_path / "later", later, previous=old).vocabularies
    num_old = len(old["item"].raw_ids)
    assert new["item"].raw_ids[:num_old].tolist() == old["item"].raw_ids.tolist()
    assert new["item"].raw_ids[num_old:].tolist() == [5, 99]


def test_a_failed_preparation_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(prepared_folder, "_write_manifest", disk_full)
        with pytest.raises(OSError, match="No space left"):
            prepared(tmp_path)
    assert list((tmp_path / "work").iterdir()) == []
    assert prepared(tmp_path).num_rows("train") == 6


def test_processes_may_prepare_the_same_log_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (write(tmp_path, impressions()),)
    write_manifest = prepared_folder._write_manifest

    def another_is_first(*arguments: Any) -> None:
        monkeypatch.setattr(prepared_folder, "_write_manifest", write_manifest)
        prepared(tmp_path, rows=rows)
        write_manifest(*arguments)

    monkeypatch.setattr(prepared_folder, "_write_manifest", another_is_first)
    assert prepared(tmp_path, rows=rows).num_rows("test") == 2
    assert len(list((tmp_path / "work").iterdir())) == 1


# What is refused


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"click": [0, 1, 2] + [0] * 7}, r"'click', row 2 .* holds 2: a label is 0 or 1"),
        ({"buy": [0.0] * 9 + [None]}, r"'buy', row 9 .* holds None: a label is 0 or 1"),
        ({"item": [1] * 9 + [-4]}, r"'item', row 9 .* holds -4: an id is 0 or more"),
        ({"item": [1.0] * 9 + [0.5]}, "'item' has type double: ids are integers or strings"),
        ({"item": [[1]] * 10}, "'item' has type list.* expected integers or strings, one a row"),
        ({"price": ["cheap"] * 10}, "'price' has type .*string, expected numbers"),
        ({"time": ["noon"] * 10}, "'time' has type .*string, expected integers in the schema's"),
        ({"user": pd.array([1] * 8 + [None, 2], "Int64")}, r"'user', row 8 .* needs a user"),
        ({"time": pd.array([None] + [1] * 9, "Int64")}, r"'time', row 0 .* needs a time"),
        ({"user": [5] * 4 + [-1] + [5] * 5}, r"'user', row 4 .* holds -1"),
    ],
)
def test_a_bad_value_is_an_error_with_its_file_column_and_row(
    columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"rows\.parquet: column " + message):
        prepared(tmp_path, impressions(**columns))
    assert list((tmp_path / "work").iterdir()) == []


def test_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    frame = impressions().rename(columns={"item": "item_id"})
    with pytest.raises(ValueError, match=r"rows\.parquet: unknown column 'item': did you mean 'it"):
        prepared(tmp_path, frame)


def test_the_row_of_a_bad_value_is_counted_within_its_own_file(tmp_path: Path) -> None:
    good = write(tmp_path, impressions(), "good.parquet")
    bad = write(tmp_path, impressions(buy=[0.0] * 6 + [3.0] * 4), "bad.parquet")
    with pytest.raises(ValueError, match=r"bad\.parquet: column 'buy', row 6 .* holds 3\.0"):
        prepared(tmp_path, rows=(good, bad))


def test_one_table_cannot_have_integers_and_strings(tmp_path: Path) -> None:
    first = write(tmp_path, impressions(), "first.parquet")
    second = write(tmp_path, impressions(item=["a"] * 10), "second.parquet")
    with pytest.raises(ValueError, match=r"second\.parquet: table 'item' has int64 ids, but colu"):
        prepared(tmp_path, rows=(first, second))


@pytest.mark.parametrize("kept", [0.4, 0.95])
def test_a_truncated_file_is_named(kept: float, tmp_path: Path) -> None:
    path = write(tmp_path, impressions())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(ValueError, match=r"rows\.parquet cannot be read: .* truncated"):
        prepared(tmp_path, rows=(path,))


def test_a_file_that_shrinks_after_preparation_is_named(tmp_path: Path) -> None:
    log = prepared(tmp_path)
    write(tmp_path, impressions(), rows=3)
    with pytest.raises(ValueError, match=r"rows\.parquet has changed since the log was prepared"):
        log.read_block(0)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing\.parquet does not exist"):
        prepared(tmp_path, rows=(tmp_path / "nothing.parquet",))


def test_no_row_to_train_on_says_where_the_log_lies(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no row to train on: .* run from 5 to 90"):
        prepared(tmp_path, split=TemporalSplit(1, 2))
    with pytest.raises(ValueError, match="'train' in column 'hour'"):
        prepared(tmp_path, impressions(hour="test"), split=ColumnSplit("hour"))


def test_an_unknown_split_name_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"split in column 'hour' of .* 'trian': did you mean 'tr"):
        prepared(tmp_path, impressions(hour="trian"), split=ColumnSplit("hour"))


def test_timestamps_in_a_log_of_order_are_refused(tmp_path: Path) -> None:
    schema = FeatureSchema.from_dict(SCHEMA.to_dict() | {"time_unit": "order"})
    times = pd.to_datetime(impressions().time, unit="ms")
    with pytest.raises(ValueError, match="the schema's time_unit is 'order'"):
        prepared(tmp_path, impressions(time=times), schema=schema)
