"""User windows: which rows are one sequence, and what its history holds."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from tests.data.clicks import clicks
from tests.data.conftest import MakeLog
from tests.data.window_oracle import (
    HOUR,
    TEST_FROM,
    by_rows,
    chunks_of,
    day_start,
    flat,
    prepare_windows,
    sequences_of,
    sequences_read,
    window_schema,
)
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.window_loader import WindowLoader
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table
from torchrec_gr.sequences.request_batch import NO_TIME

pytestmark = pytest.mark.usefixtures("small_chunks")


@pytest.mark.parametrize("history_as_of", ["exposure", "day", "split"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_sequences_and_histories_are_those_of_the_definition(
    log: PreparedLog, split: str, history_as_of: str
) -> None:
    """The log is in no order, and most of its times are shared."""
    rows = clicks()
    known_before = {
        "exposure": lambda time: time,
        "day": day_start,
        "split": lambda time: min(time, TEST_FROM) if split == "test" else time,
    }[history_as_of]
    in_split = (rows.time < TEST_FROM) == (split == "train")
    for seed, max_candidates in ((None, 256), (None, 3), (5, 3), (5, 1)):
        loader = WindowLoader(
            log,
            split,
            batch_tokens=30,
            max_candidates=max_candidates,
            history_as_of=history_as_of,  # type: ignore[arg-type]
            seed=seed,
        )
        expected = [
            sequence
            for chunk in chunks_of(rows, in_split)
            for sequence in sequences_of(rows, chunk, known_before, max_candidates=max_candidates)
        ]
        assert by_rows(sequences_read(loader)) == by_rows(expected)


@pytest.mark.parametrize("window_hours", [6.0, 24.0])
@pytest.mark.parametrize("real_time_hours", [0.0, 5.0])
def test_windows_are_counted_by_the_log_s_clock(
    make_log: MakeLog, window_hours: float, real_time_hours: float
) -> None:
    rows = clicks(num_rows=120, num_users=3)
    loader = WindowLoader(
        make_log(rows, window_schema(utc_offset_hours=5.5)),
        "train",
        batch_tokens=30,
        window_hours=window_hours,
        real_time_hours=real_time_hours,
    )
    expected = [
        sequence
        for chunk in chunks_of(rows, rows.time < TEST_FROM)
        for sequence in sequences_of(
            rows,
            chunk,
            lambda time: time,
            window=lambda time: int((time + 5.5 * HOUR) // (window_hours * HOUR)),
            real_time=int(real_time_hours * HOUR),
        )
    ]
    assert by_rows(sequences_read(loader)) == by_rows(expected)
    assert any(0 < s.num_static < len(s.history_times) for s in expected)


def test_events_without_a_time_are_long_term_and_before_all_others(make_log: MakeLog) -> None:
    rows = clicks(num_users=3)
    events = rows.head(9).assign(time=NO_TIME, price=np.arange(9, dtype=np.float32) + 10)
    loader = WindowLoader(
        make_log(rows, window_schema(max_history=100), events), "train", batch_tokens=100
    )
    expected = [
        sequence
        for chunk in chunks_of(rows, rows.time < TEST_FROM)
        for sequence in sequences_of(rows, chunk, lambda time: time, events=events, max_history=100)
    ]
    assert by_rows(sequences_read(loader)) == by_rows(expected)
    assert all(s.num_static >= s.history_times.count(NO_TIME) for s in expected)
    assert any(s.history_times.count(NO_TIME) for s in expected)


def test_a_new_sequence_begins_where_a_context_of_the_sequence_changes(make_log: MakeLog) -> None:
    """Only "hour" may change inside of a sequence here."""
    rows = clicks(num_users=2).assign(age=lambda frame: frame.item % 2 + 20.0)
    log = make_log(rows, window_schema(request_features=("hour",)))
    loader = WindowLoader(log, "train", batch_tokens=40)
    chunks = list(chunks_of(rows, rows.time < TEST_FROM))
    expected = [
        sequence
        for chunk in chunks
        for sequence in sequences_of(rows, chunk, lambda time: time, context=("age",))
    ]
    batches = list(loader)
    assert by_rows(sequences_read(batches)) == by_rows(expected)
    for batch in batches:
        assert batch.dense_contextual is not None
        ages = batch.dense_contextual[:, 0].repeat_interleave(batch.num_candidates)
        assert ages.tolist() == rows.age[batch.source_rows.tolist()].tolist()
    windows = sum(rows.user[chunk].nunique() for chunk in chunks)
    assert 0 < loader.counts["split_windows"] <= windows < len(expected)


def test_a_window_of_one_exposure_and_one_of_ten_thousand(
    make_log: MakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The long one is split and counted; nothing is lost, and tokens stay balanced."""
    monkeypatch.setattr("torchrec_gr.data.split_rows.WINDOW_ROWS", 100_000)
    rows = clicks(num_rows=10_020, num_users=1)
    rows.loc[10_000:, "user"] = np.arange(20) + 500
    log = make_log(rows, block=1000, test_from=100 * HOUR)
    loader = WindowLoader(log, "train", batch_tokens=2000, seed=0, max_candidates=256)
    sequences = list(sequences_read(loader))
    assert sorted(flat(s.rows for s in sequences)) == list(range(len(rows)))
    assert max(len(s.history_times) for s in sequences) <= 256 + 4
    long = sorted(
        (s for s in sequences if rows.user[s.rows[0]] == 100), key=lambda s: s.candidate_times
    )
    assert len(sequences) == len(long) + 20
    assert max(len(s.rows) for s in long) == 256
    assert 40 <= len(long) <= 50  # a few are shorter, since equal times have them see more events
    times = flat(s.candidate_times for s in long)
    assert times == sorted(times)
    assert loader.counts["split_windows"] == 1
    assert loader.counts["rows"] == len(rows)
    assert loader.counts["sequences"] == len(sequences)
    for before, after in itertools.pairwise(long):
        assert before.candidate_times[-1] <= after.candidate_times[0]


def test_no_event_is_dropped_for_a_later_one(make_log: MakeLog, tmp_path: Path) -> None:
    """Events between two exposures split a window; they do not push out what the first one saw."""
    rows = clicks(32, num_users=1).assign(time=[*(np.arange(30) * HOUR), 50 * HOUR, 60 * HOUR])

    def seen(num_between: int) -> list[list[int]]:
        events = clicks(num_between, num_users=1).assign(time=51 * HOUR + np.arange(num_between))
        columns = ["user", "time", "item", "tag", "price", "click"]
        folder = tmp_path / str(num_between)
        folder.mkdir()
        log = prepare_windows(folder, rows, events=events[columns])
        loader = WindowLoader(log, "test", batch_tokens=1000, max_candidates=2)
        found = sorted(sequences_read(loader), key=lambda s: s.candidate_times)
        return [[t for t in s.history_times if t < s.candidate_times[0]] for s in found]

    newest = [time * HOUR for time in (26, 27, 28, 29)]
    assert seen(1) == [newest]
    assert seen(8) == [newest, [51 * HOUR + i for i in (4, 5, 6, 7)]]


def test_rows_of_no_user_are_sequences_of_their_own(make_log: MakeLog) -> None:
    schema = FeatureSchema(
        name="log",
        labels=("click",),
        features=(Feature("hour", "contextual"), Feature("item", "candidate")),
        tables=(Table("hour"), Table("item")),
        time="time",
        time_unit="s",
    )
    rows = clicks()
    loader = WindowLoader(make_log(rows, schema), "train", batch_tokens=11, seed=0)
    batches = list(loader)
    num_rows = int((rows.time < TEST_FROM).sum())
    assert sum(batch.num_requests for batch in batches) == loader.num_rows == num_rows
    for batch in batches:
        assert batch.num_candidates.tolist() == [1] * batch.num_requests
        assert batch.user_ids.tolist() == [-1] * batch.num_requests
        assert batch.history == []


def test_a_log_that_knows_only_an_order_has_one_window(make_log: MakeLog) -> None:
    """What the first exposure knows is long-term: hours cannot be counted."""
    rows = clicks(num_users=3)
    log = make_log(rows, window_schema(time_unit="order"))
    loader = WindowLoader(log, "train", batch_tokens=60)
    expected = [
        sequence._replace(num_static=len([t for t in sequence.history_times if t < moments[0]]))
        for chunk in chunks_of(rows, rows.time < TEST_FROM)
        for sequence in sequences_of(rows, chunk, lambda time: time)
        for moments in [sequence.candidate_times]
    ]
    assert by_rows(sequences_read(loader)) == by_rows(expected)
    with pytest.raises(ValueError, match="knows only an order"):
        WindowLoader(log, "train", batch_tokens=60, window_hours=1.0)
