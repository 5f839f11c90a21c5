"""Which split each row or event of a log belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from torchrec_gr.data.columns import Columns
from torchrec_gr.data.log_source import TEST, TRAIN, VALIDATION, TemporalSplit
from torchrec_gr.schema.feature_schema import nearest_valid

_KNOWN = (TRAIN, VALIDATION, TEST)
_FURTHER_TEST = re.compile(r"test_.+")


class SplitNames(NamedTuple):
    """The splits of N rows.

    Args:
        names: the different ones.
        place: [N] integer, index into `names`.
    """

    names: list[str]
    place: NDArray[np.int64]

    def counts(self) -> dict[str, int]:
        """Name -> how many rows; those that have rows."""
        counted = np.bincount(self.place, minlength=len(self.names))
        return {name: int(count) for name, count in zip(self.names, counted, strict=True) if count}

    def mask(self, name: str) -> NDArray[np.bool_]:
        """[N]: which rows belong to the split `name`."""
        return self.place == (self.names.index(name) if name in self.names else -1)

    def codes(self, splits: Sequence[str]) -> NDArray[np.int8]:
        """[N] int8, index into `splits`."""
        codes = [splits.index(name) if name in splits else -1 for name in self.names]
        return np.array(codes, dtype=np.int8)[self.place]


def split_names(
    split: TemporalSplit | str, columns: Columns, times: NDArray[np.int64]
) -> SplitNames:
    """Tells the split of each row.

    Args:
        split: by time, or the column that names it.
        columns: N rows.
        times: [N] int64.

    Raises:
        ValueError: a split whose name is not train, validation, test or test_<name>.
    """
    if isinstance(split, TemporalSplit):
        borders = [split.validation_from, split.test_from]
        return SplitNames(list(_KNOWN), np.searchsorted(borders, times, side="right"))
    found = columns.names(split)
    names = found.dictionary.to_pylist()
    for name in names:
        if name not in _KNOWN and not _FURTHER_TEST.fullmatch(name):
            what = f"split in column {split!r} of {columns.file.path}"
            raise ValueError(nearest_valid(what, name, (*_KNOWN, "test_<name>")))
    return SplitNames(names, found.indices.to_numpy().astype(np.int64))


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """train, validation and test first, further test sets behind them by name."""
    return tuple(sorted(names, key=lambda n: (_KNOWN.index(n) if n in _KNOWN else 3, n)))
