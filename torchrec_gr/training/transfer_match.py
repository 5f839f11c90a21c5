"""Which source row each row that this process holds takes."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from torchrec_gr.training.raw_ids import (
    Ids,
    examples,
    first_null,
    hashed,
    index_of,
    require_distinct,
    windows,
)
from torchrec_gr.training.source import LONGEST_PIECE


class RowPairs(NamedTuple):
    """Rows that take source rows.

    Args:
        source: [m] int32 (int64 from 2^31 rows on), ascending.
        target: [m], of the same type, counted from the first row held.
    """

    source: Tensor
    target: Tensor

    def within(self, first: int, num: int) -> tuple[Tensor, Tensor]:
        """Of source rows [first, first + num): their places there, and the target's rows."""
        bounds = torch.tensor([first, first + num], dtype=self.source.dtype)
        part = slice(*torch.searchsorted(self.source, bounds).tolist())
        return self.source[part].long() - first, self.target[part].long()


class Match(NamedTuple):
    """What the rows take that a process holds.

    Args:
        found: source rows of the same id.
        picked: other rows of the source, for rows of ids that it does not know.
        unknown: rows of ids that the source does not know.
        num_shared_ids: pairs of rows of the same id, without the pair that stands for none.
    """

    found: RowPairs
    picked: RowPairs
    unknown: Tensor
    num_shared_ids: int


def match_rows(num_source_rows: int, first: int, num_rows: int) -> Match:
    """Rows [first, first + num_rows) take the source's rows of the same number."""
    num_found = min(max(num_source_rows - first, 0), num_rows)
    target = torch.arange(num_rows, dtype=_row_type(num_source_rows))
    pairs = RowPairs(target[:num_found] + first, target[:num_found])
    return Match(pairs, _none_of(target), target[num_found:], num_found)


def match_ids(source: Ids, target: Ids, first: int, num_rows: int, what: str) -> Match:
    """Rows [first, first + num_rows) of the target take the source's rows of the same raw id.

    The first row that stands for no id takes the source's, where both have one.

    Args:
        source, target: [rows] the raw ids of both, of one type.
        what: the target, named in an error.

    Raises:
        ValueError: an id that stands for two rows of either.
    """
    own = target.slice(first, num_rows)
    index = index_of(own)
    require_distinct(target, index, first, what)
    null, null_source = first_null(target), first_null(source)
    takes_null = null_source >= 0 and first <= null < first + num_rows
    row_type = _row_type(max(len(source), num_rows))
    parts = [torch.empty(2, 0, dtype=row_type)]
    is_taken = torch.zeros(num_rows, dtype=torch.bool)
    for begin, ids in windows(source):
        rows = index.find(ids)
        if takes_null and begin <= null_source < begin + len(ids):
            rows[null_source - begin] = null - first
        places = torch.nonzero(rows >= 0).squeeze(1)
        rows = rows[places]
        is_taken[rows] = True
        parts.append(torch.stack([places + begin, rows]).to(row_type))
    found = RowPairs(*torch.cat(parts, dim=1))
    if int(is_taken.sum()) < len(found.target):
        _refuse_twice(own, found.target, what)
    is_taken |= torch.from_numpy(own.is_null().to_numpy(zero_copy_only=False).copy())
    unknown = torch.nonzero(~is_taken).squeeze(1).to(row_type)
    return Match(found, _none_of(unknown), unknown, len(found.target) - takes_null)


def pick_rows(unknown: Tensor, ids: Ids, source: Ids) -> RowPairs:
    """Gives each unknown row a source row by a hash of its id.

    Args:
        unknown: [u] rows held.
        ids: [rows held] their raw ids.
        source: [rows] the source's raw ids; rows that stand for none are not picked.
    """
    known = torch.from_numpy(source.is_valid().to_numpy(zero_copy_only=False).copy())
    candidates = torch.nonzero(known).squeeze(1).to(unknown.dtype)
    parts = [unknown[:0]]
    for rows in unknown.split(LONGEST_PIECE):
        parts.append(candidates[hashed(ids.take(pa.array(rows.numpy())), len(candidates))])
    picked, order = torch.cat(parts).sort(stable=True)
    return RowPairs(picked, unknown[order])


def _refuse_twice(own: Ids, targets: Tensor, what: str) -> None:
    ordered = targets.sort().values
    rows = ordered[1:][ordered.diff() == 0][:3]
    raise ValueError(
        f"{what}: in the source an id stands for more than one row, such as "
        f"{examples(own.take(pa.array(rows.numpy())))}: it is not known which of them to take"
    )


def _none_of(rows: Tensor) -> RowPairs:
    return RowPairs(rows[:0], rows[:0])


def _row_type(num_rows: int) -> torch.dtype:
    return torch.int32 if num_rows < 1 << 31 else torch.int64
