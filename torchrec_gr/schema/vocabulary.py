"""The rows of an embedding table: which raw id has which row."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from torchrec_gr.schema.feature_schema import Table

OUT_OF_VOCABULARY = 0
"""The row of every id that has none of its own, and of null."""

_MERGE_AT = 1 << 20  # pieces are merged when they hold so many ids, and as many as the last merge


def raw_ids(values: NDArray[Any] | pa.Array | pa.ChunkedArray, column: str) -> pa.Array:
    """Raw ids in one of the two types that they are kept in: int64 or large_string.

    Args:
        values: [N] integers, whole floats (NaN is null), booleans or strings; or a dictionary.
        column: named in an error.

    Returns:
        [N] int64 or large_string; nulls stay null.

    Raises:
        ValueError: another type, a fraction, or an integer that int64 cannot hold.
    """
    array = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    found = array.type
    if pa.types.is_dictionary(found):
        array = array.dictionary_decode()
    kind = id_type(found)
    if kind is None:
        raise ValueError(f"column {column!r} has type {found}: ids are integers or strings")
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), None, array)
    try:
        return array.cast(kind)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"column {column!r} has type {found}: ids are integers or strings ({error})"
        ) from error


def id_type(found: pa.DataType) -> pa.DataType | None:
    """What ids of a found type are kept in: int64, large_string, or None: they cannot be ids."""
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_string(found) or pa.types.is_large_string(found):
        return pa.large_string()
    is_number = pa.types.is_integer(found) or pa.types.is_floating(found)
    if is_number or pa.types.is_boolean(found) or pa.types.is_null(found):
        return pa.int64()
    return None


class Vocabulary:
    """The ids of one table in the order of their rows; row 0 stands for all others.

    Args:
        table: the table's name.
        ids: [n] int64 or large_string without nulls: ids[i] has row i + 1.
        counts: [n + 1] int64, occurrences in the training window; [0] counts null and rare ids.
    """

    def __init__(self, table: str, ids: pa.Array, counts: NDArray[np.int64]) -> None:
        self.table = table
        self.ids = ids
        self.counts = counts

    @property
    def num_rows(self) -> int:
        """n + 1: the rows that the table needs."""
        return len(self.ids) + 1

    @property
    def raw_ids(self) -> NDArray[Any]:
        """[n] int64, or objects that are str: the ids of rows 1 to n."""
        return self._index.to_numpy()

    def row_ids(self) -> pa.Array:
        """[n + 1] int64 or large_string: the id of each row; null: row 0 has none of its own."""
        return pa.concat_arrays([pa.nulls(1, self.ids.type), self.ids])

    def rows(
        self, raw: NDArray[Any] | pa.Array | pa.ChunkedArray, column: str = ""
    ) -> NDArray[np.int64]:
        """The row of each raw id; 0 where it is null or not known.

        Args:
            raw: [N] ids of the vocabulary's type.
            column: named in an error; default: the table.

        Returns:
            [N] int64.

        Raises:
            ValueError: ids of another type than the vocabulary's.
        """
        column = column or self.table
        ids = raw_ids(raw, column)
        if len(ids) == ids.null_count:
            return np.zeros(len(ids), dtype=np.int64)
        if ids.type != self.ids.type and len(self.ids):
            raise ValueError(_two_types(self.table, self.ids.type, ids.type, column))
        encoded = ids.dictionary_encode()
        row_of = self._index.get_indexer(_index(encoded.dictionary)) + 1
        row_of = np.append(row_of, OUT_OF_VOCABULARY)
        return row_of[encoded.indices.fill_null(-1).to_numpy()].astype(np.int64, copy=False)

    def fingerprint(self) -> str:
        """Equal for equal ids in equal rows."""
        hashes = pd.util.hash_array(self.raw_ids)
        return hashlib.sha256(hashes.tobytes()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Writes what `load` reads; an older file stays whole until the new one is."""
        contents = pa.table({"id": self.row_ids(), "count": self.counts})
        partial = Path(f"{path}.partial-{os.getpid()}")
        try:
            pq.write_table(contents.replace_schema_metadata({"table": self.table}), partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Reads what `save` wrote.

        Raises:
            ValueError: the file is missing, damaged, or no vocabulary.
        """
        try:
            contents = pq.read_table(path)
            table = contents.schema.metadata[b"table"].decode()
            ids = contents["id"].combine_chunks().slice(1)
            counts = contents["count"].to_numpy()
        except (OSError, pa.ArrowInvalid, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a vocabulary that was saved here: {error}") from error
        del contents
        pa.default_memory_pool().release_unused()  # as much again as the vocabulary
        return cls(table, ids, counts)

    @functools.cached_property
    def _index(self) -> pd.Index:
        return _index(self.ids)


class VocabularyBuilder:
    """Counts the ids of one table as they stream by, then gives them rows.

    Args:
        table: its name, and the count below which an id shares row 0.

    Attributes:
        num_null: how many of the values were null.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.num_null = 0
        self._pieces: list[tuple[pa.Array, NDArray[np.int64]]] = []
        self._num_pending = 0
        self._type: pa.DataType | None = None

    def add(self, raw: NDArray[Any] | pa.Array | pa.ChunkedArray, column: str = "") -> None:
        """Counts the ids of a piece of the training window.

        Args:
            raw: [N] ids; null ones count for row 0.
            column: named in an error; default: the table.

        Raises:
            ValueError: a negative id, or strings in a table that has integers.
        """
        column = column or self.table.name
        ids = raw_ids(raw, column)
        self.num_null += ids.null_count
        if len(ids) == ids.null_count:
            return
        if self._type is not None and ids.type != self._type:
            raise ValueError(_two_types(self.table.name, self._type, ids.type, column))
        self._type = ids.type
        counted = ids.drop_null().value_counts()
        _refuse_negative(counted.field("values"), column)
        self._pieces.append((counted.field("values"), counted.field("counts").to_numpy()))
        self._num_pending += len(counted)
        if self._num_pending >= max(_MERGE_AT, len(self._pieces[0][0])):
            self._pieces, self._num_pending = [self._merged()], 0

    def build(self, previous: Vocabulary | None = None) -> Vocabulary:
        """Gives every id that was seen `min_count` times a row, in sorted order.

        Args:
            previous: its ids keep their rows, seen again or not; new ids follow them.

        Raises:
            ValueError: `previous` has strings where integers were seen, or the other way round.
        """
        ids, counts = self._merged()
        known = previous.ids if previous is not None and len(previous.ids) else ids.slice(0, 0)
        if not len(ids):
            ids = known.slice(0, 0)
        if known.type != ids.type:
            raise ValueError(_two_types(self.table.name, known.type, ids.type, "of the new log"))
        frequent = ids.filter(pa.array(counts >= self.table.min_count))
        new = frequent.filter(pc.invert(pc.is_in(frequent, value_set=known)))
        in_rows = pa.concat_arrays([known, new.take(pc.array_sort_indices(new))])
        rows = _index(in_rows).get_indexer(_index(ids)) + 1
        by_row = np.bincount(rows, weights=counts, minlength=len(in_rows) + 1).astype(np.int64)
        by_row[OUT_OF_VOCABULARY] += self.num_null
        return Vocabulary(self.table.name, in_rows, by_row)

    def _merged(self) -> tuple[pa.Array, NDArray[np.int64]]:
        """Every id that was seen, once, and its count."""
        if not self._pieces:
            return pa.array([], pa.int64()), np.zeros(0, dtype=np.int64)
        encoded = pa.concat_arrays([ids for ids, _ in self._pieces]).dictionary_encode()
        counts = np.concatenate([counts for _, counts in self._pieces])
        return encoded.dictionary, np.bincount(encoded.indices, weights=counts).astype(np.int64)


def _index(ids: pa.Array | pa.ChunkedArray) -> pd.Index:
    values = ids.to_pandas().to_numpy(dtype=np.int64 if ids.type == pa.int64() else object)
    return pd.Index(values, dtype=values.dtype)  # else pandas 3 would choose a string type


def _refuse_negative(ids: pa.Array, column: str) -> None:
    if ids.type == pa.int64() and len(ids) and (lowest := pc.min(ids).as_py()) < 0:
        raise ValueError(
            f"column {column!r} holds the negative id {lowest}: ids are 0 or more. If it stands "
            "for a missing value, write null, which gets the out-of-vocabulary row"
        )


def _two_types(table: str, one: pa.DataType, other: pa.DataType, column: str) -> str:
    return (
        f"table {table!r} has {one} ids, but column {column!r} has {other}: features that share a "
        "table need ids of one type; convert the column, or give the feature a table of its own"
    )
