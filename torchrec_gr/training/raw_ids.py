"""What the rows of a table stand for, and which row a raw id has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchrec_gr.embeddings.id_hash import hash_ids
from torchrec_gr.embeddings.id_slots import ROW_BITS
from torchrec_gr.ops import id_map_find, id_map_grow, id_map_insert_
from torchrec_gr.schema.vocabulary import Vocabulary, raw_ids
from torchrec_gr.training.source import LONGEST_PIECE

RawIds: TypeAlias = "Vocabulary | pa.Array | pa.ChunkedArray | NDArray[Any] | Sequence[Any]"
"""Raw ids as a user has them: [rows] integers or strings, None or null where a row has no id."""

Ids: TypeAlias = "pa.Array | pa.ChunkedArray"
"""Raw ids as they are kept: [rows] int64 or large_string, null where a row has no id."""

_SMALLEST_MAP = 16


def as_raw_ids(given: RawIds, what: str) -> Ids:
    """[rows] int64 or large_string: the raw id of each row, null where it has none.

    Args:
        given: a Vocabulary, whose row 0 stands for no id, or the ids themselves.
        what: they are of, for an error.

    Raises:
        ValueError: neither integers that int64 can hold, nor strings.
    """
    if isinstance(given, Vocabulary):
        return pa.chunked_array([pa.nulls(1, given.ids.type), given.ids])  # without a copy
    try:
        return raw_ids(given, "raw_ids")
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{what}: raw ids must be integers or strings ({error})") from error


def first_null(ids: Ids) -> int:
    """The first row that stands for no id; -1: there is none."""
    return int(pc.index(ids.is_null(), True).as_py()) if ids.null_count else -1


def examples(ids: Ids) -> str:
    """A few of the ids, as a message shows them."""
    known = ids.slice(0, LONGEST_PIECE).drop_null().slice(0, 3)
    shown = [repr(value) for value in known.to_pylist()]
    return ", ".join(shown) or "none"


def windows(ids: Ids) -> Iterator[tuple[int, Ids]]:
    """The ids piece by piece, each with the row of its first."""
    for first in range(0, len(ids), LONGEST_PIECE):
        yield first, ids.slice(first, LONGEST_PIECE)


def hashed(ids: Ids, num: int) -> Tensor:
    """[n] int64 in [0, num): a number for each id, which follows from the id alone."""
    if ids.type == pa.int64():
        return hash_ids(_values(ids), num, seed=0, function=0)
    hashes = pd.util.hash_array(_strings(ids), categorize=False)
    return torch.from_numpy((hashes % num).astype(np.int64))


class RawIdIndex(Protocol):
    """Finds rows by raw id."""

    def find(self, ids: Ids) -> Tensor:
        """[n] int64: the row of each id; -1: null, or unknown. Of equal rows' ids, any one."""


def index_of(ids: Ids) -> RawIdIndex:
    """An index of rows [n] by their ids; those without an id are not in it."""
    return _IntegerIndex(ids) if ids.type == pa.int64() else _StringIndex(ids)


def require_distinct(ids: Ids, index: RawIdIndex, first_row: int, what: str) -> None:
    """Checks that no id stands for two rows, one of which is in the index.

    Args:
        ids: [rows] of the whole table.
        index: of the rows from `first_row` on.
        what: named in the error.

    Raises:
        ValueError: some do; it names them.
    """
    for first, part in windows(ids):
        rows = index.find(part)
        own = torch.arange(first, first + len(part)) - first_row
        twice = torch.nonzero((rows >= 0) & (rows != own)).squeeze(1)
        if len(twice):
            raise ValueError(
                f"{what}: an id stands for more than one row, such as "
                f"{examples(part.take(pa.array(twice[:3].numpy())))}: each row's raw id must be "
                "its own; give null for rows that stand for no id"
            )


class _IntegerIndex:
    """Over the map of dynamic tables, whose slots are row numbers here: all chunks are full."""

    def __init__(self, ids: Ids) -> None:
        self._chunk_ids = torch.empty(len(ids), dtype=torch.int64).split(1 << ROW_BITS)
        self._chunk_tables = [0] * len(self._chunk_ids)
        capacity = _SMALLEST_MAP
        while len(ids) > capacity * 3 // 4:
            capacity *= 2
        self._entries = torch.zeros(_SMALLEST_MAP, dtype=torch.int64)
        if capacity > _SMALLEST_MAP:  # on large pages
            self._entries = id_map_grow(self._entries, capacity)
        for first in range(0, len(ids), 1 << ROW_BITS):
            part = ids.slice(first, 1 << ROW_BITS)
            rows = torch.nonzero(_is_known(part)).squeeze(1)
            known, offsets = _values(part)[rows], torch.tensor([0, len(rows)])
            id_map_insert_(*self._map(), known, offsets, rows + first)

    def find(self, ids: Ids) -> Tensor:
        """[n] rows."""
        rows = id_map_find(*self._map(), _values(ids), torch.tensor([0, len(ids)]))
        return rows.masked_fill_(~_is_known(ids), -1)

    def _map(self) -> tuple[Tensor, Sequence[Tensor], list[int]]:
        return self._entries, self._chunk_ids, self._chunk_tables


class _StringIndex:
    def __init__(self, ids: Ids) -> None:
        rows = np.flatnonzero(_is_known(ids).numpy())
        index = pd.Index(_strings(ids)[rows], dtype=object)
        first = ~index.duplicated()
        self._index, self._rows = index[first], np.append(rows[first], -1)

    def find(self, ids: Ids) -> Tensor:
        """[n] rows."""
        places = self._index.get_indexer(pd.Index(_strings(ids), dtype=object))
        return torch.from_numpy(self._rows[places])


def _is_known(ids: Ids) -> Tensor:
    return torch.from_numpy(ids.is_valid().to_numpy(zero_copy_only=False).copy())


def _values(ids: Ids) -> Tensor:
    """[n] int64; 0 where it is null."""
    return torch.from_numpy(ids.fill_null(0).to_numpy().copy())


def _strings(ids: Ids) -> NDArray[np.object_]:
    return ids.to_numpy(zero_copy_only=False)
