"""A prepared log -> each user's last event of a split, to be predicted from all before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from torchrec_gr.data.collate import collate_sequences, ranges
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.sequences.request_batch import RequestBatch, negative_key


@dataclasses.dataclass(frozen=True)
class HeldOutBatch:
    """U users, the events before the one that is held out, and that event.

    Args:
        batch: their histories; a request without events where a rank has no user.
        targets: [U] int64, table rows of the items held out; 0 is out of the vocabulary.
        seen_values: [S] int64, table rows of all items of all earlier events, user after user.
        seen_offsets: [U + 1] int64.
    """

    batch: RequestBatch
    targets: Tensor
    seen_values: Tensor
    seen_offsets: Tensor


class HeldOutLoader:
    """Reads the users whose last event lies in a split, in their order, and the catalogue.

    Every rank gets as many batches. A user's history is the newest `max_history` events before the
    one held out, of whatever split; `counts` says how many users were "skipped": those without an
    event in the split, or with none before it.

    Args:
        log: prepared, with a `schema.target`.
        split: of the events to predict.
        batch_size: users a batch, on each rank.
        max_history: events that a model reads.
        rank, world_size: of this process.
        catalogue_rows: rows of the catalogue in a batch of it.

    Raises:
        ValueError: the log has no history or no target, or the split no user to predict.
    """

    def __init__(
        self,
        log: PreparedLog,
        split: str,
        *,
        batch_size: int,
        max_history: int,
        rank: int = 0,
        world_size: int = 1,
        catalogue_rows: int = 65536,
    ) -> None:
        if log.events is None or log.schema.target is None:
            raise ValueError("to hold events out, a log needs history features and a `target`")
        for name, value in (("batch_size", batch_size), ("max_history", max_history)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.log = log
        self.batch_size = batch_size
        self.max_history = max_history
        self.catalogue_rows = catalogue_rows
        self._target = log.schema.target
        self._num_table_rows = log.table_rows[log.schema.feature(self._target).table]
        self.users, self._places = _held_out(log, split)
        if not self.users.size:
            raise ValueError(f"split {split!r} holds no user's event that has events before it")
        self.counts = {"skipped": len(log.events.user_starts) - 1 - self.users.size}
        self._first = self.users.size * rank // world_size
        self._end = self.users.size * (rank + 1) // world_size
        most = -(-self.users.size // world_size)
        self._num_batches = -(-most // batch_size)

    @property
    def num_catalogue(self) -> int:
        """Items that may be predicted."""
        return self._num_table_rows - 1

    def __len__(self) -> int:
        """Batches of users, alike on every rank."""
        return self._num_batches

    def __iter__(self) -> Iterator[HeldOutBatch]:
        """This rank's users; one item stands for the catalogue in each batch."""
        for number in range(self._num_batches):
            first = min(self._first + number * self.batch_size, self._end)
            chosen = slice(first, min(first + self.batch_size, self._end))
            yield self._read(self.users[chosen], self._places[chosen])

    def catalogue(self) -> Iterator[RequestBatch]:
        """All items, in the order of the table, as negatives of requests without events."""
        nobody = np.zeros(0, np.int64)
        for first in range(1, self._num_table_rows, self.catalogue_rows):
            items = np.arange(first, min(first + self.catalogue_rows, self._num_table_rows))
            yield self._collate(nobody, nobody, nobody, items)

    def _read(self, users: np.ndarray, places: np.ndarray) -> HeldOutBatch:
        assert self.log.events is not None  # checked
        begin = self.log.events.user_starts[users]
        start = np.maximum(begin, places - self.max_history)
        items = self.log.events.rows[self._target]
        batch = self._collate(ranges(start, places), places - start, users, np.ones(1, np.int64))
        return HeldOutBatch(
            batch=batch,
            targets=torch.from_numpy(np.take(items, places)),
            seen_values=torch.from_numpy(np.take(items, ranges(begin, places))),
            seen_offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(places - begin)])),
        )

    def _collate(
        self, index: np.ndarray, lengths: np.ndarray, users: np.ndarray, items: np.ndarray
    ) -> RequestBatch:
        assert self.log.events is not None  # checked
        negatives = {negative_key(self._target): items}
        return collate_sequences(self.log.schema, self.log.events, index, lengths, users, negatives)


def _held_out(log: PreparedLog, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Users, and the place of the event of each that is held out, among all events."""
    assert log.events is not None  # checked
    events = log.events
    offsets, positions = events.select((split,))
    users = np.flatnonzero(np.diff(offsets))
    places = positions[offsets[1:][users] - 1]
    known = places > events.user_starts[users]
    return users[known], places[known]
