"""When LUM asks whom, against plain loops; and that no later event reaches a feature."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipelines.stages.lum_cache import ask, frequent_conditions
from pipelines.stages.lum_moments import row_entries, user_moments
from tests.data.clicks import click_schema, clicks, prepare_clicks
from torchrec_gr.data.event_store import EventStore
from torchrec_gr.data.known_before import HistoryAsOf
from torchrec_gr.data.loader import RequestLoader
from torchrec_gr.data.log_source import ColumnSplit, LogSource
from torchrec_gr.data.prepared_log import PreparedLog, prepare
from torchrec_gr.models.lum import LUMPretrainer
from torchrec_gr.models.lum_config import LUMConfig
from torchrec_gr.models.lum_features import LUMFeatures
from torchrec_gr.modules.sequence_trunk import TrunkConfig
from torchrec_gr.sequences.request_batch import NO_TIME, ImpressionBatch

HOUR, DAY = 3600, 86_400


def _known_before(time: int, as_of: HistoryAsOf, test_from: int) -> int:
    if as_of == "day":
        return time // DAY * DAY
    return min(time, test_from) if as_of == "split" and time >= test_from else time


@pytest.mark.parametrize("as_of", ["exposure", "day", "split"])
def test_a_row_reads_the_history_at_the_newest_day_that_it_may_know(
    tmp_path: Path, as_of: HistoryAsOf
) -> None:
    rows, test_from = clicks(), 30 * HOUR
    log = prepare_clicks(tmp_path, rows, test_from=test_from)
    assert log.events is not None
    moments = user_moments(log)
    entries = row_entries(log, as_of, moments)
    assert len(entries) == len(rows)
    assert len(moments.users) == len(rows.groupby(["user", rows["time"] // DAY]))
    lengths = set()
    for entry, (_, row) in zip(entries, rows.iterrows(), strict=True):
        moment = _known_before(row["time"], as_of, test_from) // DAY * DAY
        past = rows[(rows["user"] == row["user"]) & (rows["time"] < moment)]
        items = past.sort_values("time", kind="stable")["item"].to_numpy()[-4:]
        expected = log.vocabularies["item"].rows(items, "item") if len(items) else items
        place = int(entry) - 1
        found = slice(0)
        if place >= 0:
            found = slice(int(moments.start[place]), int(moments.end[place]))
        assert log.events.rows["history_item"][found].tolist() == expected.tolist()
        lengths.add(len(items))
    assert {0, 4} <= lengths


def test_an_event_of_unknown_time_is_known_from_the_first_day_on(tmp_path: Path) -> None:
    log = prepare_clicks(tmp_path, clicks())
    assert log.events is not None
    times = np.array(log.events.times)
    times[log.events.user_starts[0]] = NO_TIME
    moments = user_moments(dataclasses.replace(log, events=_with(log.events, times=times)))
    assert moments.moments[0] < -(2**62)
    assert (moments.start[0], moments.end[0]) == (0, 1)
    nobody, first = np.array([-1, 0]), np.array([0, 0])
    assert moments.newest(nobody, first).tolist() == [-1, 0]


def _with(events: EventStore, **changes: object) -> EventStore:
    return dataclasses.replace(events, **changes)  # type: ignore[arg-type]


def _features(log: PreparedLog, model: LUMPretrainer) -> dict[int, torch.Tensor]:
    """By row of the log."""
    moments = user_moments(log)
    conditions = np.array([[1], [2], [3]])
    cache = ask(log, model, conditions, moments)
    entries = torch.from_numpy(row_entries(log, "exposure", moments))
    torch.manual_seed(0)
    features = LUMFeatures(cache.answers, cache.items, entries, "item", summary_dim=3)
    found: dict[int, torch.Tensor] = {}
    for split in log.splits:
        for batch in RequestLoader(log, split, batch_size=16, view="impressions"):
            assert isinstance(batch, ImpressionBatch)
            with torch.no_grad():
                found.update(zip(batch.source_rows.tolist(), features(batch), strict=True))
    return found


def _model(log: PreparedLog) -> LUMPretrainer:
    torch.manual_seed(0)
    trunk = TrunkConfig(dim=8, num_layers=1)
    config = LUMConfig(conditions=("history_tag",), trunk=trunk, init_std=0.5)
    return LUMPretrainer(config, log.schema, log.table_rows)


def test_no_event_of_the_day_or_later_changes_a_feature(tmp_path: Path) -> None:
    """Events from a day's beginning on are other ones, or are not there at all."""
    rows = clicks()
    log = prepare_clicks(tmp_path, rows)
    assert log.events is not None
    events, model = log.events, _model(log)
    before = _features(log, model)
    early, late = events.times < DAY, events.times >= DAY
    others = {name: np.where(late, values % 3 + 1, values) for name, values in events.rows.items()}
    gone = _with(
        events,
        user_starts=np.concatenate([[0], early.cumsum()])[events.user_starts],
        times=events.times[early],
        rows={name: values[early] for name, values in events.rows.items()},
        split=events.split[early],
    )
    for changed in (_with(events, rows=others), gone):
        after = _features(dataclasses.replace(log, events=changed), model)
        same = {row: torch.equal(before[row], after[row]) for row in before}
        for row, time in enumerate(rows["time"]):
            if time < 2 * DAY:
                assert same[row], f"row {row} of time {time}"
        moved = [row for row, time in enumerate(rows["time"]) if time >= 2 * DAY and not same[row]]
        assert len(moved) > 5, "events of the day before reach the features of the next day"


def test_conditions_are_the_most_frequent_of_the_given_splits(tmp_path: Path) -> None:
    rows = clicks().assign(tag=lambda table: np.where(table["time"] < 40 * HOUR, table["tag"], 9))
    log = prepare_clicks(tmp_path, rows)
    trained = rows[rows["time"] < 40 * HOUR]["tag"].value_counts()
    tags = log.vocabularies["tag"].raw_ids[
        frequent_conditions(log, ["history_tag"], 2, ["train"])[:, 0] - 1
    ]
    assert trained[tags].tolist() == sorted(trained, reverse=True)[:2]
    both = frequent_conditions(log, ["history_tag", "history_item"], 500, log.splits)
    known = rows[rows["tag"] != 9]
    assert len(both) <= len(known.groupby(["tag", "item"]))
    assert (both > 0).all()
    with pytest.raises(ValueError, match="num_queries 0"):
        frequent_conditions(log, ["history_tag"], 0, ["train"])


def _ordered_log(folder: Path, position: int, *, rows_are_events: bool = False) -> PreparedLog:
    """Two users of three and one event; a row of each, the first user's at a place."""
    folder.mkdir()
    rows, events = folder / "rows.parquet", folder / "events.parquet"
    table = {"price": 1.0, "age": 1.0, "hour": 0, "tag": 1, "split": "train"}
    pd.DataFrame(
        {"user": [1, 2, 3], "time": [position, 1, 0], "item": [1, 2, 3], "click": [1, 0, 1]}
    ).assign(**table).to_parquet(rows)  # type: ignore[arg-type]
    pd.DataFrame({"user": [1, 1, 1, 2], "time": [0, 1, 2, 0], "item": [1, 2, 3, 1]}).assign(
        **table  # type: ignore[arg-type]
    ).to_parquet(events)
    source = LogSource(
        schema=click_schema(time_unit="order", max_history=2),
        rows=(rows,),
        split=ColumnSplit("split"),
        events=(events,),
        event_split="split",
        rows_are_events=rows_are_events,
    )
    return prepare(source, folder / "work")


def test_a_log_of_an_order_has_one_moment_behind_all_events(tmp_path: Path) -> None:
    log = _ordered_log(tmp_path / "last", position=3)
    moments = user_moments(log)
    assert moments.users.tolist() == [0, 1]
    assert list(zip(moments.start, moments.end, strict=True)) == [(1, 3), (3, 4)]
    assert row_entries(log, "exposure", moments).tolist() == [1, 2, 0]


def test_a_log_of_an_order_whose_rows_are_events_is_refused(tmp_path: Path) -> None:
    log = _ordered_log(tmp_path / "events", position=3, rows_are_events=True)
    with pytest.raises(ValueError, match=r"knows only an order .* and its rows are events"):
        user_moments(log)
    early = _ordered_log(tmp_path / "early", position=2)
    with pytest.raises(ValueError, match="1 rows stand before an event of their user"):
        row_entries(early, "exposure", user_moments(early))
