from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrec_gr.data.datasets import kuairand, load_dataset
from torchrec_gr.data.log_source import LogSource, TemporalSplit
from torchrec_gr.data.prepared_log import PreparedLog, prepare
from torchrec_gr.schema import Feature
from torchrec_gr.sequences.request_batch import NO_AGE, NO_TIME

HOUR = 3_600_000
NOON = kuairand.TEST_FROM - 12 * HOUR  # 3 May, 12:00 UTC+8


def _impression(user: int, video: int, time: int, **feedback: int) -> dict[str, int]:
    row = dict.fromkeys(kuairand._LOG_COLUMNS, 0)
    row |= {"user_id": user, "video_id": video, "time_ms": time, "duration_ms": 20_000, "tab": 1}
    return row | {"date": 20220503, "hourmin": 1200} | feedback


def _user(user: int, **values: object) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(kuairand._USER_IDS, 1)
    row |= dict.fromkeys(kuairand._USER_NUMBERS, 7)
    ranges = {name: "(0,10]" for name in kuairand._USER_IDS if name.endswith("range")}
    return row | ranges | {"user_id": user, "user_active_degree": "full_active"} | values


def _video(video: int, tag: str, upload_dt: str | None = "2022-04-10") -> dict[str, object]:
    kinds = {
        "upload_dt": upload_dt,
        "video_type": "NORMAL",
        "upload_type": "Web",
        "music_type": 9.0,
    }
    return {"video_id": video, "author_id": 100 + video, "tag": tag, **kinds}


USERS = [_user(1, is_live_streamer=-124), _user(2, onehot_feat4=None)]
VIDEOS = [_video(5, "39,68"), _video(6, "3", "2022-04-11"), _video(7, "", None)]
OLD = [_impression(1, 5, NOON - 100 * HOUR, long_view=1, is_click=1)]
NEW = [
    _impression(1, 6, NOON, is_click=1),
    _impression(1, 6, NOON, is_click=1),
    _impression(2, 7, NOON + 12 * HOUR, is_like=1, play_time_ms=5),
    _impression(3, 8, NOON + 13 * HOUR, long_view=1),
]


def _write_csv(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def official(tmp_path: Path) -> Path:
    folder = tmp_path / "KuaiRand-Pure" / "data"
    folder.mkdir(parents=True)
    _write_csv(folder / "log_standard_4_08_to_4_21_pure.csv", OLD)
    _write_csv(folder / "log_standard_4_22_to_5_08_pure.csv", NEW)
    _write_csv(folder / "user_features_pure.csv", USERS)
    _write_csv(folder / "video_features_basic_pure.csv", VIDEOS)
    return tmp_path


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "parquet"
    folder.mkdir()
    pd.DataFrame(NEW).to_parquet(folder / "impressions_0425_0508.parquet")
    pd.DataFrame(USERS).to_parquet(folder / "user_features.parquet")
    pd.DataFrame(VIDEOS).to_parquet(folder / "video_features_basic.parquet")
    history = {
        "user_id": pa.array([1, 2], pa.int32()),
        "last_time_ms": [NOON - 1, NOON + 20 * HOUR],
        "video_ids": pa.array([[5, 9], [6]], pa.list_(pa.int16())),
        "long_view": pa.array([[1, 0], [0]], pa.list_(pa.int8())),
        "is_like": pa.array([[0, 1], [0]], pa.list_(pa.int8())),
    }
    pq.write_table(pa.table(history), folder / "user_history_0409_0424.parquet")
    return folder


def _rows(source: LogSource) -> pd.DataFrame:
    return pq.read_table(source.rows[0]).to_pandas(types_mapper=_nullable)


def _prepare(source: LogSource, work_dir: Path) -> PreparedLog:
    """With the day before the test window to train on: the only day before it that has rows."""
    split = TemporalSplit(kuairand.TEST_FROM, kuairand.TEST_FROM)
    return prepare(dataclasses.replace(source, split=split), work_dir)


def _nullable(kind: pa.DataType) -> object:
    return pd.Int64Dtype() if pa.types.is_integer(kind) else None


def test_official_layout(official: Path, tmp_path: Path) -> None:
    source = kuairand.load(official, tmp_path / "work")
    rows = _rows(source)
    assert rows["video_id"].tolist() == [5, 6, 7, 8]
    assert rows["long_view"].tolist() == [1, 0, 0, 1]
    assert rows["hour"].tolist() == [8, 12, 0, 1]
    assert source.dropped == {"exact duplicate of another impression": 1}
    assert source.split == TemporalSplit(kuairand.TEST_FROM - 86_400_000, kuairand.TEST_FROM)
    assert not source.events


def test_shared_layout_gives_the_same_rows(official: Path, shared: Path, tmp_path: Path) -> None:
    from_csv = _rows(kuairand.load(official, tmp_path / "a"))
    from_parquet = _rows(kuairand.load(shared, tmp_path / "b"))
    pd.testing.assert_frame_equal(from_csv[1:].reset_index(drop=True), from_parquet)


def test_features_that_are_not_known_are_null(official: Path, tmp_path: Path) -> None:
    rows = _rows(kuairand.load(official, tmp_path / "work"))
    assert rows["tag"].fillna(-1).tolist() == [39, 3, -1, -1]
    assert rows["author_id"].fillna(-1).tolist() == [105, 106, 107, -1]
    assert rows["is_live_streamer"].fillna(-1).tolist() == [-1, -1, 1, -1]
    assert rows["onehot_feat4"].fillna(-1).tolist() == [1, 1, -1, -1]
    assert rows["register_days"].tolist() == [7.0, 7.0, 7.0, 0.0]
    assert rows["user_active_degree"].isna().tolist() == [False, False, False, True]


def test_histories_are_events_at_no_time_in_order(shared: Path, tmp_path: Path) -> None:
    source = kuairand.load(shared, tmp_path / "work")
    events = pq.read_table(source.events[0])
    assert events["user_id"].to_pylist() == [1, 1]
    assert events["video_id"].to_pylist() == [5, 9]
    assert events["long_view"].to_pylist() == [1, 0]
    assert events["is_like"].to_pylist() == [0, 1]
    assert events["tag"].to_pylist() == [39, None]
    assert set(events["time_ms"].to_pylist()) == {NO_TIME}
    assert {f.column for f in source.schema.of("history")} <= set(events.column_names)


def test_a_history_that_ends_after_an_impression_is_left_out(shared: Path, tmp_path: Path) -> None:
    source = kuairand.load(shared, tmp_path / "work")
    reason = "history event of a user whose history ends after the first impression"
    assert source.dropped[reason] == 1


@pytest.mark.parametrize("label", kuairand.LABELS)
def test_nothing_of_the_rows_own_feedback_is_a_feature(
    official: Path, tmp_path: Path, label: str
) -> None:
    schema = kuairand.load(official, tmp_path / "work", label).schema
    assert schema.labels == (label,)
    columns = {f.column for f in schema.features if f.role != "history"}
    assert not columns & set(kuairand._FEEDBACK)
    written = pq.read_schema(tmp_path / "work" / "kuairand-pure_rows.parquet").names
    assert set(written) & set(kuairand._FEEDBACK) == set(kuairand.LABELS)
    assert {f.column for f in schema.features} <= set(written)


def test_history_and_candidate_share_tables(official: Path, tmp_path: Path) -> None:
    schema = kuairand.load(official, tmp_path / "work").schema
    for name in ("video_id", "author_id", "tag"):
        assert schema.feature(f"history_{name}").table == schema.feature(name).table
    assert schema.item == schema.feature("video_id")


def test_options_change_the_schema_and_nothing_else(shared: Path, tmp_path: Path) -> None:
    default = kuairand.load(shared, tmp_path / "a")
    before = default.rows[0].read_bytes(), default.events[0].read_bytes()
    options = {"surface": True, "max_history": 200, "item_age": True}
    source = load_dataset("kuairand-pure", shared, tmp_path / "a", **options)
    assert (source.rows[0].read_bytes(), source.events[0].read_bytes()) == before
    assert default.schema.max_history == 50
    assert default.schema.item_time is None
    assert "history_tab" not in [f.name for f in default.schema.features]
    assert source.schema == dataclasses.replace(
        default.schema,
        features=(*default.schema.features, Feature("history_tab", "history", column="tab")),
        max_history=200,
        item_time="upload_ms",
    )
    with pytest.raises(ValueError, match="max_history must be at least 1, got 0"):
        kuairand.load(shared, tmp_path / "a", max_history=0)


def test_further_tasks_follow_the_label(official: Path, tmp_path: Path) -> None:
    schema = kuairand.load(official, tmp_path, "is_click", tasks=["long_view"]).schema
    assert schema.labels == ("is_click", "long_view")
    assert schema.request_features == ("tab", "hour")
    with pytest.raises(ValueError, match="'is_lik': did you mean 'is_like'"):
        kuairand.load(official, tmp_path, tasks=["is_lik"])
    with pytest.raises(ValueError, match="given twice: long_view, is_like, long_view"):
        kuairand.load(official, tmp_path, tasks=["is_like", "long_view"])


def test_cross_features_hold_the_histories_too(shared: Path, tmp_path: Path) -> None:
    source = load_dataset("kuairand-pure", shared, tmp_path, cross_features=True)
    log = _prepare(source, tmp_path)
    assert log.crosses is not None
    rows, events = _rows(source), pq.read_table(source.events[0]).to_pandas()
    filled = log.crosses.fill(log.read_block(0), rows["time_ms"].to_numpy())
    for i, row in rows.iterrows():
        earlier = rows[rows["time_ms"] < row["time_ms"]]
        of_user = [frame[frame["user_id"] == row["user_id"]] for frame in (events, earlier)]
        count = sum(map(len, of_user))
        assert filled.dense["count_user_id"][i] == pytest.approx(np.log1p(count))
        # Neither surfaces nor clicks are known of the earlier histories.
        on_surface = int((of_user[1]["tab"] == row["tab"]).sum())
        assert filled.dense["count_user_id_tab"][i] == pytest.approx(np.log1p(on_surface))
    counts = np.expm1(filled.dense["count_user_id"]).round().astype(int).tolist()
    assert max(counts) > 1, counts
    plain = kuairand.load(shared, tmp_path).schema
    assert log.without_cross_features().schema == plain


def test_a_surface_that_is_not_known_is_row_0(shared: Path, tmp_path: Path) -> None:
    source = kuairand.load(shared, tmp_path / "work", surface=True)
    log = _prepare(source, tmp_path / "work")
    assert log.vocabularies["tab"].raw_ids.tolist() == [1]
    assert log.events is not None
    known = log.events.times != NO_TIME
    assert log.events.rows["history_tab"].tolist() == known.astype(int).tolist()
    assert sorted(known.tolist()) == [False, False, True, True, True]
    assert log.counts["null ids in tab, taken for unknown"] == 2


@pytest.mark.parametrize("layout", ["official", "shared"])
def test_videos_age_from_their_day_of_upload(
    layout: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = kuairand.load(request.getfixturevalue(layout), tmp_path / "work", item_age=True)
    tenth = kuairand.TEST_FROM - 24 * kuairand.DAY_MS  # of April; the test begins on 4 May
    uploaded = {5: tenth, 6: tenth + kuairand.DAY_MS, 7: None, 8: None}
    rows = _rows(source)
    found = [None if pd.isna(time) else time for time in rows["upload_ms"]]
    assert found == [uploaded[video] for video in rows["video_id"]]
    log = _prepare(source, tmp_path / "work")
    ages = log.read_block(0).item_ages
    assert ages is not None
    # On 3 May at noon, video 6 is 22 days old and 12 hours; of videos 7 and 8 nothing is known.
    assert ages.tolist()[-3:] == [22, NO_AGE, NO_AGE]


def test_length_buckets() -> None:
    lengths = np.array([0, 1, 5_000, 20_000, 10_000_000])
    assert kuairand._duration_bucket(lengths).tolist() == [0, 1, 2, 6, 12]


def test_a_file_that_is_lacking_beside_the_others_is_named(official: Path, tmp_path: Path) -> None:
    (official / "KuaiRand-Pure" / "data" / "user_features_pure.csv").unlink()
    with pytest.raises(ValueError, match=r"user_features_pure\.csv or user_features\.parquet"):
        kuairand.load(official, tmp_path / "work")


def test_the_real_log(shared_data: Path, tmp_path: Path) -> None:
    source = kuairand.load(shared_data / "kuairand-pure", tmp_path)
    time = pq.read_table(source.rows[0], columns=["time_ms"])["time_ms"].to_numpy()
    assert source.dropped["exact duplicate of another impression"] == 5_460
    assert isinstance(source.split, TemporalSplit)
    train, test = time < source.split.validation_from, time >= source.split.test_from
    assert (train.sum(), (~train & ~test).sum(), test.sum()) == (131_651, 18_563, 72_655)
    assert pq.ParquetFile(source.events[0]).metadata.num_rows == 817_187 - 124
