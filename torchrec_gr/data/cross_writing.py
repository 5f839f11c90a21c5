"""A log's rows and events -> the folder that its computed features are looked up in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchrec_gr.data.columns import Columns
from torchrec_gr.data.cross_features import Key, outcomes_of_keys
from torchrec_gr.data.cross_store import NO_KEY, write_store
from torchrec_gr.data.log_reading import past_needs, read_all, read_times
from torchrec_gr.data.log_scan import LogScan
from torchrec_gr.data.log_source import LogSource
from torchrec_gr.schema.feature_schema import Table
from torchrec_gr.schema.vocabulary import Vocabulary, VocabularyBuilder

_UNKNOWN = -1  # of an outcome


def write_crosses(source: LogSource, found: LogScan, folder: Path) -> None:
    """Numbers the values of every key and sorts what happened to them.

    Columns wait on disk as numbers and are put together one key at a time. A file of events without
    a key's columns has nothing of that key, and one without an outcome does not know it.

    Args:
        source: the log; its schema has computed features.
        found: by a scan of it.
        folder: is made.

    Raises:
        ValueError: an outcome that is not 0, 1 or null, or ids of two types in one column.
    """
    folder.mkdir()
    keys = outcomes_of_keys(source.schema)
    num_rows = sum(block.num_rows for block in found.blocks)
    reader = _PastReader(source, found, found.num_events + num_rows)
    key_columns = dict.fromkeys(itertools.chain.from_iterable(keys))
    codes = {column: reader.codes(column, folder) for column in key_columns}
    outcome_columns = dict.fromkeys(itertools.chain.from_iterable(keys.values()))
    outcomes = {column: reader.outcomes(column) for column in outcome_columns}
    num_past = reader.num_entries if source.rows_are_events else found.num_events
    unique, moments = np.unique(reader.times()[:num_past], return_inverse=True)
    np.save(folder / "moments.npy", unique)
    for i, (key, names) in enumerate(keys.items()):
        write_store(
            folder / f"key-{i}",
            _groups(key, codes, reader.num_entries),
            moments,
            len(unique),
            [outcomes[name] for name in names],
            num_rows=num_rows if key else 1,  # all rows have the same group
        )
    for column in codes:
        reader.codes_path(column, folder).unlink()


class _PastReader:
    """Reads one column of the T entries, the events and then the rows, a block at a time."""

    def __init__(self, source: LogSource, found: LogScan, num_entries: int) -> None:
        self.num_entries = num_entries
        self._source = source
        self._files = [*found.event_files, *found.files]
        self._columns = list(past_needs(source.schema))

    def times(self) -> NDArray[np.int64]:
        """[T] int64."""
        times = np.empty(self.num_entries, np.int64)
        assert self._source.schema.time is not None  # the schema checks it
        self._read(self._source.schema.time, times, lambda block: read_times(self._source, block))
        return times

    def outcomes(self, column: str) -> NDArray[np.int8]:
        """[T] int8: 0, 1, or -1 where it is not known."""
        outcomes = np.full(self.num_entries, _UNKNOWN, np.int8)
        self._read(column, outcomes, lambda block: block.outcomes(column))
        return outcomes

    def codes(self, column: str, folder: Path) -> NDArray[np.int64]:
        """[T] int64 on disk: a number of each id, from 1; 0 where it is null or there is none."""
        vocabulary = self._vocabulary(column)
        codes = np.lib.format.open_memmap(
            self.codes_path(column, folder), mode="w+", dtype=np.int64, shape=(self.num_entries,)
        )
        self._read(column, codes, lambda block: vocabulary.rows(block.ids(column), column))
        return codes

    def codes_path(self, column: str, folder: Path) -> Path:
        """Where the codes of a column are; by number, since its name need not be a file's name."""
        return folder / f"codes-{self._columns.index(column)}.npy"

    def _vocabulary(self, column: str) -> Vocabulary:
        builder = VocabularyBuilder(Table(column))
        for block in self._blocks(column):
            if column in block:
                with block.naming_the_file():
                    builder.add(block.ids(column), column)
        return builder.build()

    def _read(
        self, column: str, entries: NDArray[Any], read: Callable[[Columns], NDArray[Any]]
    ) -> None:
        first = 0
        for block in self._blocks(column):
            if column in block:
                entries[first : first + len(block)] = read(block)
            first += len(block)

    def _blocks(self, column: str) -> Iterator[Columns]:
        assert self._source.schema.time is not None  # the schema checks it
        return read_all(self._files, list(dict.fromkeys((self._source.schema.time, column))))


def _groups(key: Key, codes: dict[str, NDArray[np.int64]], num_entries: int) -> NDArray[np.int64]:
    """[T] int64: the number of each entry's value of the key; NO_KEY where a column is null."""
    if not key:
        return np.zeros(num_entries, np.int64)
    groups = codes[key[0]] + NO_KEY  # a code of 0 is null
    for column in key[1:]:
        code = codes[column]
        has_key = (groups != NO_KEY) & (code > 0)
        pairs = groups[has_key] * (int(code.max(initial=0)) + 1) + code[has_key]
        groups = np.full(num_entries, NO_KEY, np.int64)
        groups[has_key] = np.unique(pairs, return_inverse=True)[1]
    return groups
