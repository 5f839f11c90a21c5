"""The history of every user: events in time order, found by user and moment."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchrec_gr.schema.feature_schema import KINDS, Feature, FeatureSchema, Kind, nearest_valid


@dataclasses.dataclass(frozen=True)
class EventStore:
    """The E events of U users, sorted by user, then time, then the log's order.

    Args:
        user_starts: [U + 1] int64; the events of user u are user_starts[u]:user_starts[u + 1].
        times: [E] int64; NO_TIME where unknown.
        rows: categorical history feature -> [E] int64 rows of its table.
        dense: dense history feature -> [E] float32, transformed.
        split: [E] int8, index into `splits`.
        splits: names of the log's splits.
        max_history: how many newest events a history keeps.
    """

    user_starts: NDArray[np.int64]
    times: NDArray[np.int64]
    rows: Mapping[str, NDArray[np.int64]]
    dense: Mapping[str, NDArray[np.float32]]
    split: NDArray[np.int8]
    splits: tuple[str, ...]
    max_history: int

    @property
    def num_events(self) -> int:
        """E."""
        return self.times.size

    def before(
        self, user_index: NDArray[np.int64], times: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Where the events strictly before a moment lie.

        Args:
            user_index: [N] int64; -1 is nobody, who has no events.
            times: [N] int64.

        Returns:
            first, start and end, each [N] int64: first[i]:end[i] are all such events of i's user,
            start[i]:end[i] the newest `max_history` of them, which are the history.
        """
        known = user_index >= 0
        user = np.where(known, user_index, 0)
        first = np.where(known, self.user_starts[user], 0)
        low, high = first, np.where(known, self.user_starts[user + 1], 0)
        # A binary search of every row at once: events before `low` are earlier, from `high` on not.
        while (open_ := low < high).any():
            middle = (low + high) // 2
            earlier = open_.copy()
            earlier[open_] = self.times[middle[open_]] < times[open_]
            low, high = np.where(earlier, middle + 1, low), np.where(earlier, high, middle)
        return first, np.maximum(first, low - self.max_history), low

    def select(self, splits: Iterable[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The events of some splits, such as those that generative pretraining may see.

        Args:
            splits: names out of `self.splits`.

        Returns:
            offsets [U + 1] and positions [S], int64: the selected events of user u, oldest first,
            are positions[offsets[u]:offsets[u + 1]].

        Raises:
            ValueError: a split that the log does not have.
        """
        codes = []
        for name in splits:
            if name not in self.splits:
                raise ValueError(nearest_valid("split", name, self.splits))
            codes.append(self.splits.index(name))
        positions = np.flatnonzero(np.isin(self.split, codes))
        return np.searchsorted(positions, self.user_starts), positions

    @classmethod
    def load(cls, folder: Path, schema: FeatureSchema, splits: tuple[str, ...]) -> EventStore:
        """Maps what an EventSorter wrote into memory."""

        def array(name: str) -> NDArray[Any]:
            return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

        return cls(
            user_starts=array("user_starts"),
            times=array("times"),
            rows={f.name: array(f"feature-{i}") for i, f in _history(schema, "categorical")},
            dense={f.name: array(f"feature-{i}") for i, f in _history(schema, "dense")},
            split=array("split"),
            splits=splits,
            max_history=schema.max_history,
        )


class EventSorter:
    """Takes E events in the log's order and writes them sorted by user and time.

    Features wait on disk and are sorted one at a time; only users and times stay in memory.

    Args:
        folder: is made; holds the sorted arrays in the end.
        schema: whose history features an event has.
        num_events: E.
    """

    def __init__(self, folder: Path, schema: FeatureSchema, num_events: int) -> None:
        folder.mkdir()
        self.folder = folder
        self.schema = schema
        self._users = np.empty(num_events, dtype=np.int64)
        self._times = np.empty(num_events, dtype=np.int64)
        self._split = np.empty(num_events, dtype=np.int8)
        self._unsorted = {
            f.name: self._new(f"unsorted-{i}", num_events, kind)
            for kind in KINDS
            for i, f in _history(schema, kind)
        }
        self._num_added = 0

    def add(
        self,
        users: NDArray[np.int64],
        times: NDArray[np.int64],
        split: NDArray[np.int8],
        features: Mapping[str, NDArray[Any]],
    ) -> None:
        """Takes N events, which follow those taken before."""
        here = slice(self._num_added, self._num_added + users.size)
        self._users[here], self._times[here], self._split[here] = users, times, split
        for name, waiting in self._unsorted.items():
            waiting[here] = features[name]
        self._num_added += users.size

    def finish(self, num_users: int) -> None:
        """Writes what `EventStore.load` reads.

        Args:
            num_users: U.
        """
        order = np.lexsort((self._times, self._users))
        starts = np.searchsorted(self._users[order], np.arange(num_users + 1))
        np.save(self.folder / "user_starts.npy", starts)
        np.save(self.folder / "times.npy", self._times[order])
        np.save(self.folder / "split.npy", self._split[order])
        for kind in KINDS:
            for i, feature in _history(self.schema, kind):
                np.save(self.folder / f"feature-{i}.npy", self._unsorted.pop(feature.name)[order])
                (self.folder / f"unsorted-{i}.npy").unlink()

    def _new(self, name: str, num_events: int, kind: Kind) -> NDArray[Any]:
        dtype = np.int64 if kind == "categorical" else np.float32
        path = self.folder / f"{name}.npy"
        if not num_events:
            path.touch()
            return np.empty(0, dtype)
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(num_events,))


def _history(schema: FeatureSchema, kind: Kind) -> list[tuple[int, Feature]]:
    """The history features of one kind, with their places among all features."""
    wanted = schema.of("history", kind)
    return [(i, feature) for i, feature in enumerate(schema.features) if feature in wanted]
