"""What happened to the keys of a log: found by key and moment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NO_KEY = -1
"""The group of a row or event that has a null in a column of the key."""


class Past(NamedTuple):
    """What N rows' keys met before a moment.

    Args:
        has_key: [N] bool; nothing is counted where it is false.
        counts: [N] int64, how many rows and events.
        last: [N] int64, place of the last one's time in the moments; -1 where there is none.
        outcomes: outcome -> positives and known, [N] int64 each.
    """

    has_key: NDArray[np.bool_]
    counts: NDArray[np.int64]
    last: NDArray[np.int64]
    outcomes: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]]


@dataclasses.dataclass(frozen=True)
class CrossStore:
    """E rows and events of one key, sorted by group and moment.

    The group of a row is the number of its key's value. A moment is the place of a time among the M
    different times of the log, so that group * M + moment says both in one sorted number.

    Args:
        groups: [rows of the log] int64; NO_KEY where the key is missing.
        starts: [G + 1] int64; the entries of group g are starts[g]:starts[g + 1].
        places: [E] int64, group * M + moment, sorted.
        num_moments: M.
        sums: outcome -> [2, E + 1] int64: how many of the first e are 1, and how many are known.
    """

    groups: NDArray[np.int64]
    starts: NDArray[np.int64]
    places: NDArray[np.int64]
    num_moments: int
    sums: Mapping[str, NDArray[np.int64]]

    def before(self, rows: NDArray[np.int64], moments: NDArray[np.int64]) -> Past:
        """What each row's key met strictly before a moment.

        Args:
            rows: [N] int64, numbers of rows of the log.
            moments: [N] int64, 0..M.
        """
        group = self.groups[rows]
        has_key = group != NO_KEY
        group = np.where(has_key, group, 0)
        first = np.where(has_key, self.starts[group], 0)
        end = np.searchsorted(self.places, group * self.num_moments + moments)
        end = np.where(has_key, end, 0)
        has_past = first < end
        last = np.full(len(rows), -1, np.int64)
        last[has_past] = self.places[end[has_past] - 1] % self.num_moments
        outcomes = {
            name: (sums[0, end] - sums[0, first], sums[1, end] - sums[1, first])
            for name, sums in self.sums.items()
        }
        return Past(has_key, end - first, last, outcomes)

    @classmethod
    def load(cls, folder: Path, num_moments: int, outcomes: list[str]) -> CrossStore:
        """Maps what `write_store` wrote into memory.

        Args:
            folder: of the key.
            num_moments: M.
            outcomes: in the order in which they were written.
        """

        def array(name: str) -> NDArray[np.int64]:
            return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

        return cls(
            groups=array("groups"),
            starts=array("starts"),
            places=array("places"),
            num_moments=num_moments,
            sums={outcome: array(f"sums-{i}") for i, outcome in enumerate(outcomes)},
        )


def write_store(
    folder: Path,
    groups: NDArray[np.int64],
    moments: NDArray[np.int64],
    num_moments: int,
    outcomes: list[NDArray[np.int8]],
    num_rows: int,
) -> None:
    """Sorts the entries of one key and writes what `CrossStore.load` reads.

    Args:
        folder: is made.
        groups: [T] int64, of the log's events, then of its rows; NO_KEY where the key is missing.
        moments: [P] int64, 0..M - 1, of the first P of the T, which are what counts.
        num_moments: M.
        outcomes: of each outcome [T] int8: 0, 1, or -1 where it is not known.
        num_rows: how many groups are kept, the last ones.
    """
    folder.mkdir()
    np.save(folder / "groups.npy", groups[len(groups) - num_rows :])
    num_groups = int(groups.max(initial=NO_KEY)) + 1
    groups = groups[: len(moments)]
    places = np.where(groups == NO_KEY, np.iinfo(np.int64).max, groups * num_moments + moments)
    order = np.argsort(places, kind="stable")[: np.count_nonzero(groups != NO_KEY)]
    places = places[order]
    np.save(folder / "places.npy", places)
    np.save(folder / "starts.npy", np.searchsorted(places, np.arange(num_groups + 1) * num_moments))
    for i, outcome in enumerate(outcomes):
        sums = np.zeros((2, len(order) + 1), np.int64)
        np.cumsum(outcome[order] == 1, out=sums[0, 1:])
        np.cumsum(outcome[order] >= 0, out=sums[1, 1:])
        np.save(folder / f"sums-{i}.npy", sums)
