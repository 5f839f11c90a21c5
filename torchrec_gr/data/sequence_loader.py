"""A prepared log -> one sequence a user, for generative pretraining."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from torchrec_gr.data.collate import collate_sequences, ranges
from torchrec_gr.data.log_source import TRAIN
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.shuffle import NEGATIVES, SEQUENCES, generator
from torchrec_gr.data.step_loader import StepLoader, fingerprint
from torchrec_gr.sequences.request_batch import RequestBatch, negative_key

MIN_EVENTS = 2
"""A shorter sequence has no next event to predict."""


class SequenceLoader(StepLoader[RequestBatch]):
    """Reads each user's newest `schema.max_history` events as one sequence, in random order.

    A batch is a RequestBatch without candidates. Its key `negative_<target>` holds ids drawn
    uniformly from the target's table, without the out-of-vocabulary row, from (seed, epoch, step):
    all ranks draw the same. Where the schema has a `side_target`, `negative_<side_target>` holds
    every row of its table but that one, in order.

    `counts` says how many users were "skipped" (fewer than two events) and how many sequences are
    "truncated", and adds up the "sequences", "events" and "steps" that this rank has read.

    Args:
        log: prepared, with a `schema.target`.
        batch_size: sequences a step, over all ranks.
        num_negatives: drawn for each step.
        seed: of the order and of the negatives.
        rank, world_size: of this process.
        splits: whose events may be read.

    Raises:
        ValueError: the log has no history or no target, or a setting is out of its range.
    """

    def __init__(
        self,
        log: PreparedLog,
        *,
        batch_size: int,
        num_negatives: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        splits: tuple[str, ...] = (TRAIN,),
    ) -> None:
        target, num_table_rows = _target(log)
        if num_negatives < 0:
            raise ValueError(f"num_negatives must be at least 0, got {num_negatives}")
        if num_negatives and num_table_rows < 2:
            raise ValueError(f"no negatives can be drawn: the vocabulary of {target!r} is empty")
        assert log.events is not None  # checked
        offsets, self._positions = log.events.select(splits)
        num_events = np.diff(offsets)
        self._users = np.flatnonzero(num_events >= MIN_EVENTS)
        self._end = offsets[1:][self._users]
        self._start = np.maximum(offsets[:-1][self._users], self._end - log.schema.max_history)
        super().__init__(
            self._users.size,
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            settings={
                "splits": ",".join(splits),
                "num_negatives": num_negatives,
                "log": fingerprint(log),
            },
        )
        self.log = log
        self.num_negatives = num_negatives
        self._target = target
        self._num_table_rows = num_table_rows
        self._side_rows = _side_rows(log)
        self.counts["skipped"] = int((num_events < MIN_EVENTS).sum())
        self.counts["truncated"] = int((num_events > log.schema.max_history).sum())

    @property
    def num_events(self) -> int:
        """Events of one epoch's sequences, over all ranks."""
        return int((self._end - self._start).sum())

    def _batches(self, epoch: int, first_step: int) -> Iterator[RequestBatch]:
        assert self.seed is not None  # a seed is required
        order = generator(SEQUENCES, self.seed, epoch).permutation(self.num_units)
        for step in range(first_step, self.num_steps):
            first, end = self._slice(step)
            negatives = generator(NEGATIVES, self.seed, epoch, step).integers(
                1, self._num_table_rows, self.num_negatives
            )
            yield self._collate(order[first:end], negatives)

    def _collate(self, chosen: np.ndarray, negatives: np.ndarray) -> RequestBatch:
        assert self.log.events is not None  # checked
        start, end = self._start[chosen], self._end[chosen]
        index = self._positions[ranges(start, end)]
        self.counts["sequences"] += chosen.size
        self.counts["events"] += index.size
        return collate_sequences(
            self.log.schema,
            self.log.events,
            index,
            end - start,
            self._users[chosen],
            {negative_key(self._target): negatives, **self._side_rows},
        )


def _target(log: PreparedLog) -> tuple[str, int]:
    """The feature that pretraining predicts, and the rows of its table."""
    if log.events is None:
        raise ValueError("generative pretraining needs histories: this log has no history features")
    if log.schema.target is None:
        raise ValueError(
            "generative pretraining needs to know what to predict: set the schema's `target` to a "
            "categorical history feature"
        )
    return log.schema.target, log.table_rows[log.schema.feature(log.schema.target).table]


def _side_rows(log: PreparedLog) -> dict[str, np.ndarray]:
    """Key -> every row of the side target's table but the first; empty without a side target."""
    side = log.schema.side_target
    if side is None:
        return {}
    return {negative_key(side): np.arange(1, log.table_rows[log.schema.feature(side).table])}
