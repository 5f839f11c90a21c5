"""What a data set hands over: files, the schema of their columns, how they are split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from torchrec_gr.schema.feature_schema import FeatureSchema

TRAIN = "train"
VALIDATION = "validation"
TEST = "test"


@dataclasses.dataclass(frozen=True)
class TemporalSplit:
    """Rows before `validation_from` train, rows from `test_from` on test, those between validate.

    Args:
        validation_from, test_from: in the log's time unit. Equal: there is no validation split.

    Raises:
        ValueError: the test window begins before the validation window.
    """

    validation_from: int
    test_from: int

    def __post_init__(self) -> None:
        if self.validation_from > self.test_from:
            raise ValueError(
                f"validation_from {self.validation_from} is later than test_from {self.test_from}: "
                "the validation window lies before the test window"
            )


@dataclasses.dataclass(frozen=True)
class ColumnSplit:
    """A string column says which split a row belongs to.

    Args:
        column: holds "train", "validation", "test" or, for further test sets, "test_<name>".
    """

    column: str


@dataclasses.dataclass(frozen=True)
class LogSource:
    """An impression log on disk, ready to be prepared.

    Args:
        schema: what the columns mean.
        rows: parquet or csv files of impressions, one candidate a row.
        split: which rows train, validate and test.
        events: parquet or csv files of further history events that are never scored: the user, time
            and history columns. A time that is not known is NO_TIME; equal times keep the files'
            order, `events` before `rows`. They count for computed features whose columns they have.
        rows_are_events: a row becomes history of the same user's later rows.
        event_split: string column of `events` that says which split an event belongs to. Needed
            with a ColumnSplit; with a TemporalSplit the event's time decides.
        dropped: reason -> how many rows the data set's own cleaning dropped.
        notes: facts about the data, such as {"bayes_auc": 0.81}.

    Raises:
        ValueError: fields that contradict each other.
    """

    schema: FeatureSchema
    rows: tuple[Path, ...]
    split: TemporalSplit | ColumnSplit
    events: tuple[Path, ...] = ()
    rows_are_events: bool = True
    event_split: str | None = None
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("a log needs at least one file of rows: none was given")
        temporal = isinstance(self.split, TemporalSplit)
        if temporal and self.schema.time is None:
            raise ValueError("a temporal split needs the schema's `time`: name the time column")
        if self.events and not self.has_history:
            raise ValueError(
                "event files were given, but the schema has no history feature to read from them"
            )
        if self.events and temporal == (self.event_split is not None):
            raise ValueError(
                "event_split must be given with a ColumnSplit (which events may be trained on?) "
                "and left out with a TemporalSplit (their time decides)"
            )
        if self.has_history and not self.events and not self.rows_are_events:
            raise ValueError(
                "the schema has history features, but nothing becomes history: give event files or "
                "set rows_are_events"
            )

    @property
    def has_history(self) -> bool:
        """Whether the schema has any history feature."""
        return bool(self.schema.of("history") or self.schema.of("history", "dense"))
