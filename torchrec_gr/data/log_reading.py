"""Which columns of a log's files are read, and as what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from torchrec_gr.data.columns import Columns
from torchrec_gr.data.log_file import LogFile, Need
from torchrec_gr.data.log_source import LogSource, TemporalSplit
from torchrec_gr.data.split_names import SplitNames, split_names
from torchrec_gr.schema.feature_schema import TICKS_PER_SECOND, Feature, FeatureSchema, Role
from torchrec_gr.sequences.request_batch import NO_AGE, NO_TIME


def row_needs(source: LogSource, *roles: Role) -> dict[str, tuple[Need, ...]]:
    """Which columns of the files of rows are read for the features of some roles, and as what."""
    schema = source.schema
    needs: list[tuple[str | None, Need]] = [(schema.user, "id"), (schema.time, "time")]
    needs += [(label, "label") for label in schema.labels]
    if not isinstance(source.split, TemporalSplit):
        needs.append((source.split.column, "split"))
    if "candidate" in roles:
        needs.append((schema.item_time, "time"))
    return _grouped(needs + [(f.column, _need(f)) for f in features(source, *roles)])


def event_needs(source: LogSource) -> dict[str, tuple[Need, ...]]:
    """Which columns of the files of events are read, and as what."""
    schema = source.schema
    needs: list[tuple[str | None, Need]] = [(schema.user, "id"), (schema.time, "time")]
    needs.append((source.event_split, "split"))
    return _grouped(needs + [(f.column, _need(f)) for f in features(source, "history")])


def past_needs(schema: FeatureSchema) -> dict[str, tuple[Need, ...]]:
    """Which columns the computed features are computed from, and as what they are read.

    The files of rows have them all; one of events need not.
    """
    keys: list[tuple[str | None, Need]] = []
    keys += [(column, "id") for feature in schema.computed for column in feature.over]
    return _grouped(list(dict.fromkeys(keys + [(f.of, "label") for f in schema.computed])))


def features(source: LogSource, *roles: Role) -> list[Feature]:
    """The features of some roles that are read, categorical and dense."""
    read = (feature for feature in source.schema.features if not feature.is_computed)
    return [feature for feature in read if feature.role in roles]


def row_roles(source: LogSource) -> tuple[Role, ...]:
    """The roles whose features are read off the files of rows."""
    impression: tuple[Role, ...] = ("contextual", "candidate")
    return (*impression, "history") if source.rows_are_events else impression


def read_all(files: Sequence[LogFile], columns: list[str]) -> Iterator[Columns]:
    """Every row group of some files, one at a time."""
    for file in files:
        row_in_file = 0
        for contents in file.read_all(columns):
            yield Columns(file, row_in_file, contents)
            row_in_file += contents.num_rows


def read_times(source: LogSource, columns: Columns) -> NDArray[np.int64]:
    """[N] int64; 0 where the log has no times."""
    if source.schema.time is None:
        return np.zeros(len(columns), dtype=np.int64)
    return columns.times(source.schema.time, source.schema.time_unit)


def read_item_ages(
    source: LogSource, columns: Columns, times: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """[N] int64, as in RequestBatch; None where the schema has no `item_time`."""
    schema = source.schema
    if schema.item_time is None:
        return None
    since = columns.times_or_null(schema.item_time, schema.time_unit)
    known = since != NO_TIME
    ages = (times - np.where(known, since, times)) // (86_400 * TICKS_PER_SECOND[schema.time_unit])
    return np.where(known, ages.clip(0, NO_AGE), NO_AGE)


def row_splits(source: LogSource, columns: Columns, times: NDArray[np.int64]) -> SplitNames:
    """The splits of a block of rows."""
    split = source.split
    return split_names(split if isinstance(split, TemporalSplit) else split.column, columns, times)


def event_splits(source: LogSource, columns: Columns, times: NDArray[np.int64]) -> SplitNames:
    """The splits of a block of further events."""
    split = source.split
    if isinstance(split, TemporalSplit):
        return split_names(split, columns, times)
    assert source.event_split is not None  # LogSource checks it
    return split_names(source.event_split, columns, times)


def _need(feature: Feature) -> Need:
    return "id" if feature.kind == "categorical" else "number"


def _grouped(pairs: Sequence[tuple[str | None, Need]]) -> dict[str, tuple[Need, ...]]:
    columns = dict.fromkeys(column for column, _ in pairs if column is not None)
    return {c: tuple(need for column, need in pairs if column == c) for c in columns}
