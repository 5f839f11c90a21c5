"""The first look at a log: every value checked, ids counted over the training window."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from torchrec_gr.data.columns import Columns
from torchrec_gr.data.log_file import LogFile, Need, open_log_file
from torchrec_gr.data.log_reading import (
    event_needs,
    event_splits,
    features,
    past_needs,
    read_all,
    read_times,
    row_needs,
    row_roles,
    row_splits,
)
from torchrec_gr.data.log_source import TRAIN, LogSource, TemporalSplit
from torchrec_gr.data.split_names import SplitNames, in_order
from torchrec_gr.schema.feature_schema import Feature, Table
from torchrec_gr.schema.vocabulary import VocabularyBuilder
from torchrec_gr.sequences.request_batch import NO_TIME


@dataclasses.dataclass(frozen=True)
class Block:
    """Rows that are read at once: one row group of one file, at most 65,536 rows.

    Args:
        file: index into the log's files of rows.
        row_group: of that file.
        row_in_file: its first row, counted within the file.
        first_row: the same row, counted over all files.
        num_rows: of the block.
        counts: how many of its rows belong to each split.
    """

    file: int
    row_group: int
    row_in_file: int
    first_row: int
    num_rows: int
    counts: tuple[int, ...]


@dataclasses.dataclass
class LogScan:
    """What one pass over a log finds out.

    Args:
        files: of rows, readable in small blocks.
        event_files: the same of further events.
        builders: table -> the ids of the training window, counted; not of tables of buckets.
        users: the users of rows and events, counted.
        splits: the names that occur.
        blocks: of the rows.
        num_events: in the files of events.
        counts: what was mended, and how often.
    """

    files: list[LogFile]
    event_files: list[LogFile]
    builders: dict[str, VocabularyBuilder]
    users: VocabularyBuilder
    splits: tuple[str, ...]
    blocks: list[Block]
    num_events: int
    counts: Counter[str]


def scan(source: LogSource, spool_folder: Path) -> LogScan:
    """Reads a log once, a block at a time.

    Args:
        source: the log.
        spool_folder: where files that cannot be read in small blocks are written again.

    Raises:
        ValueError: a file, column or value that cannot be used, named; or no row to train on.
    """
    scanner = _Scanner(source)
    of_rows, of_events = row_needs(source, *row_roles(source)), event_needs(source)
    of_past = past_needs(source.schema)
    all_of_rows = {c: (*of_rows.get(c, ()), *of_past.get(c, ())) for c in (*of_rows, *of_past)}
    files = _open(source.rows, all_of_rows, {}, spool_folder, "rows")
    event_files = _open(source.events, of_events, of_past, spool_folder, "events")
    block_counts = [scanner.rows(columns) for columns in read_all(files, list(of_rows))]
    event_counts = [scanner.events(columns) for columns in read_all(event_files, list(of_events))]

    num_rows: Counter[str] = sum(map(Counter, block_counts), Counter())
    num_events: Counter[str] = sum(map(Counter, event_counts), Counter())
    if not num_rows[TRAIN]:
        raise ValueError(_no_training_rows(source, num_rows, scanner))
    splits = in_order(num_rows | num_events)
    return LogScan(
        files=files,
        event_files=event_files,
        builders=scanner.builders,
        users=scanner.users,
        splits=splits,
        blocks=_blocks(files, block_counts, splits),
        num_events=num_events.total(),
        counts=scanner.counts,
    )


class _Scanner:
    """Checks and counts one block after the other."""

    def __init__(self, source: LogSource) -> None:
        self.source = source
        of_buckets = {feature.table for feature in source.schema.computed}
        self.builders = {
            table.name: VocabularyBuilder(table)
            for table in source.schema.tables
            if table.name not in of_buckets
        }
        self.users = VocabularyBuilder(Table(source.schema.user or ""))
        self.counts: Counter[str] = Counter()
        self.first_time, self.last_time = np.iinfo(np.int64).max, np.iinfo(np.int64).min

    def rows(self, columns: Columns) -> dict[str, int]:
        """Split -> rows of a block of impressions."""
        times = read_times(self.source, columns)
        self.first_time = min(self.first_time, times.min(initial=self.first_time))
        self.last_time = max(self.last_time, times.max(initial=self.last_time))
        for label in self.source.schema.labels:
            columns.labels(label)
        self._count_ages(columns, times)
        splits = row_splits(self.source, columns, times)
        self._count(columns, features(self.source, *row_roles(self.source)), splits)
        return splits.counts()

    def events(self, columns: Columns) -> dict[str, int]:
        """Split -> events of a block of further events."""
        splits = event_splits(self.source, columns, read_times(self.source, columns))
        self._count(columns, features(self.source, "history"), splits)
        return splits.counts()

    def _count_ages(self, columns: Columns, times: NDArray[np.int64]) -> None:
        column = self.source.schema.item_time
        if column is not None:
            since = columns.times_or_null(column, self.source.schema.time_unit)
            self.counts[f"null times in {column}, age unknown"] += int((since == NO_TIME).sum())
            self.counts[f"rows earlier than {column}, age taken for 0"] += int(
                (since > times).sum()
            )

    def _count(self, columns: Columns, read: list[Feature], splits: SplitNames) -> None:
        if self.source.schema.user is not None:
            users = columns.users(self.source.schema.user)
            with columns.naming_the_file():
                self.users.add(users, self.source.schema.user)
        train = pa.array(splits.mask(TRAIN))
        # A column that several features read, as candidate and as history, counts once.
        for table, column in dict.fromkeys((f.table, f.column) for f in read if f.table):
            ids = columns.ids(column).filter(train)
            with columns.naming_the_file():
                self.builders[table].add(ids, column)
        for column in dict.fromkeys(f.column for f in read if f.kind == "categorical"):
            num_null = columns.ids(column).null_count
            self.counts[f"null ids in {column}, taken for unknown"] += num_null
        for column in dict.fromkeys(f.column for f in read if f.kind == "dense"):
            num_null, num_not_finite = columns.unusable_numbers(column)
            self.counts[f"null numbers in {column}, taken for 0"] += num_null
            self.counts[f"NaN or infinite numbers in {column}, taken for 0"] += num_not_finite


def _open(
    paths: Sequence[Path],
    needs: dict[str, tuple[Need, ...]],
    optional: dict[str, tuple[Need, ...]],
    spool_folder: Path,
    name: str,
) -> list[LogFile]:
    return [
        open_log_file(Path(path), needs, spool_folder / f"{name}-{i}.parquet", optional)
        for i, path in enumerate(paths)
    ]


def _blocks(
    files: Sequence[LogFile], block_counts: Sequence[dict[str, int]], splits: tuple[str, ...]
) -> list[Block]:
    blocks: list[Block] = []
    first_row = 0
    for place, file in enumerate(files):
        row_in_file = 0
        for row_group, num_rows in enumerate(file.row_groups()):
            found = block_counts[len(blocks)]
            counts = tuple(found.get(name, 0) for name in splits)
            blocks.append(Block(place, row_group, row_in_file, first_row, num_rows, counts))
            row_in_file += num_rows
            first_row += num_rows
    return blocks


def _no_training_rows(source: LogSource, num_rows: Counter[str], scanner: _Scanner) -> str:
    rows = ", ".join(f"{count} in {name}" for name, count in num_rows.items()) or "none at all"
    message = f"log {source.schema.name!r} has no row to train on: {rows}. "
    if isinstance(source.split, TemporalSplit):
        return message + (
            f"Training ends where validation begins, at {source.split.validation_from}; the times "
            f"in column {source.schema.time!r} run from {scanner.first_time} to "
            f"{scanner.last_time}: choose validation_from among them"
        )
    return message + f"Rows to train on have 'train' in column {source.split.column!r}"
