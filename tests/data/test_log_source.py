"""What a data set may hand over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torchrec_gr.data.log_source import ColumnSplit, LogSource, TemporalSplit
from torchrec_gr.schema import Feature, FeatureSchema, Table

HISTORY = FeatureSchema(
    name="log",
    labels=("y",),
    features=(Feature("h_item", "history", column="item"), Feature("item", "candidate")),
    tables=(Table("item"),),
    user="user",
    time="time",
)
PLAIN = FeatureSchema(
    name="log", labels=("y",), features=(Feature("item", "candidate"),), tables=(Table("item"),)
)
ROWS = (Path("rows.parquet"),)
EVENTS = (Path("events.parquet"),)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": ()}, "at least one file of rows"),
        ({"schema": PLAIN}, "needs the schema's `time`"),
        ({"schema": PLAIN, "split": ColumnSplit("part"), "events": EVENTS}, "no history feature"),
        ({"split": ColumnSplit("part"), "events": EVENTS}, "event_split must be given"),
        ({"events": EVENTS, "event_split": "part"}, "left out with a TemporalSplit"),
        ({"rows_are_events": False}, "nothing becomes history"),
    ],
)
def test_a_contradiction_is_an_error(fields: dict[str, Any], message: str) -> None:
    sound: dict[str, Any] = {"schema": HISTORY, "rows": ROWS, "split": TemporalSplit(1, 2)}
    assert LogSource(**sound).has_history
    with pytest.raises(ValueError, match=message):
        LogSource(**(sound | fields))


def test_the_test_window_follows_the_validation_window() -> None:
    assert TemporalSplit(3, 3).test_from == 3
    with pytest.raises(ValueError, match="validation_from 5 is later than test_from 4"):
        TemporalSplit(5, 4)
