"""A prepared log -> one sequence a user, for generative pretraining."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from torchrec_gr.data.collate import collate_sequences, ranges
from torchrec_gr.data.log_source import TRAIN
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.segments import MIN_EVENTS, Cut, Segmenter, Segments
from torchrec_gr.data.shuffle import EVENTS, LENGTHS, NEGATIVES, SEQUENCES, generator
from torchrec_gr.data.sliced_loader import SlicedLoader
from torchrec_gr.data.step_loader import fingerprint
from torchrec_gr.sequences.request_batch import RequestBatch, negative_key
from torchrec_gr.sequences.stochastic_length import StochasticLength, keep_events


class SequenceLoader(SlicedLoader[RequestBatch]):
    """Reads the users' events as sequences, in random order.

    A batch is a RequestBatch without candidates; a user whose events are cut into several segments
    may be several of its requests. Its key `negative_<target>` holds ids drawn uniformly from the
    target's table, without the out-of-vocabulary row, from (seed, epoch, step): all ranks draw the
    same. Where the schema has a `side_target`, `negative_<side_target>` holds every row of its
    table but that one, in order.

    `counts` says how many users were "skipped" (fewer than two events) and how many had more events
    than a segment: "truncated" where only the newest are read, "segmented" where all are. It adds
    up the "sequences", "events" and "steps" that this rank has read.

    Args:
        log: prepared, with a `schema.target`.
        batch_size: sequences a step, over all ranks.
        num_negatives: drawn for each step; None: every row of the target's table but the
            out-of-vocabulary one, in order; with 0, `negative_<target>` is not a key of the batch.
        seed: of the order, of the negatives and of where sliding segments begin.
        rank, world_size: of this process.
        splits: whose events may be read.
        cut: what of a user's events is a sequence (see `Segmenter`): their newest ones, all of them
            in segments, or all of them in segments that begin elsewhere in every epoch.
        segment_length: the most events of a sequence; default: `schema.max_history`.
        stochastic_length: alpha of `StochasticLength`, to train on a random part of long sequences,
            other ones in every epoch.

    Raises:
        ValueError: the log has no history or no target, or a setting is out of its range.
    """

    def __init__(
        self,
        log: PreparedLog,
        *,
        batch_size: int,
        num_negatives: int | None,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        splits: tuple[str, ...] = (TRAIN,),
        cut: Cut = "newest",
        segment_length: int | None = None,
        stochastic_length: float | None = None,
    ) -> None:
        target, num_table_rows = _target(log)
        if num_negatives is not None and num_negatives < 0:
            raise ValueError(f"num_negatives must be at least 0, got {num_negatives}")
        if num_negatives != 0 and num_table_rows < 2:
            raise ValueError(f"no negatives can be drawn: the vocabulary of {target!r} is empty")
        assert log.events is not None  # checked
        offsets, self._positions = log.events.select(splits)
        length = log.schema.max_history if segment_length is None else segment_length
        self._segmenter = Segmenter(offsets, cut, length)
        self._stochastic = _stochastic(stochastic_length, length)
        super().__init__(
            self._segmenter.num_segments,
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            settings={
                "splits": ",".join(splits),
                "num_negatives": "all" if num_negatives is None else num_negatives,
                "cut": cut,
                "segment_length": length,
                "stochastic_length": stochastic_length,
                "log": fingerprint(log),
            },
        )
        self.log = log
        self.num_negatives = num_negatives
        self._target = target
        self._num_table_rows = num_table_rows
        self._whole_tables = _whole_tables(log, target if num_negatives is None else None)
        self.counts["skipped"] = self._segmenter.num_skipped
        self.counts["truncated" if cut == "newest" else "segmented"] = self._segmenter.num_cut

    @property
    def num_events(self) -> int:
        """Events of one epoch's sequences, over all ranks, before any are left out at random."""
        return self._segmenter.num_events

    def _batches(self, epoch: int, first_step: int) -> Iterator[RequestBatch]:
        assert self.seed is not None  # a seed is required
        order = generator(SEQUENCES, self.seed, epoch).permutation(self.num_units)
        segments = self._segmenter.segments(self.seed, epoch)
        for step in range(first_step, self.num_steps):
            negatives = self._whole_tables
            if self.num_negatives:
                drawn = generator(NEGATIVES, self.seed, epoch, step).integers(
                    1, self._num_table_rows, self.num_negatives
                )
                negatives = {negative_key(self._target): drawn, **negatives}
            begin = step * self.batch_size
            chosen = order[begin : begin + self.batch_size]
            of_step = Segments(*(values[chosen] for values in segments))
            yield self._collate(of_step, negatives, epoch, step)

    def _collate(
        self, of_step: Segments, negatives: dict[str, np.ndarray], epoch: int, step: int
    ) -> RequestBatch:
        """This rank's share of a step's sequences."""
        assert self.log.events is not None  # checked
        first, end = self._slice(step)
        mine = slice(first - step * self.batch_size, end - step * self.batch_size)
        index, lengths = self._events(of_step, mine, epoch, step)
        self.counts["sequences"] += lengths.size
        self.counts["events"] += index.size
        return collate_sequences(
            self.log.schema, self.log.events, index, lengths, of_step.users[mine], negatives
        )

    def _events(
        self, of_step: Segments, mine: slice, epoch: int, step: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """[T]: the events of some of a step's sequences; [S]: how many each has."""
        num_events = of_step.end - of_step.start
        index = self._positions[ranges(of_step.start[mine], of_step.end[mine])]
        if self._stochastic is None:
            return index, num_events[mine]
        assert self.log.events is not None  # checked
        assert self.seed is not None  # a seed is required
        # Numbers are drawn for the whole step: who reads a sequence does not change its events.
        kept = self._stochastic.lengths(num_events, generator(LENGTHS, self.seed, epoch, step))
        drawn = generator(EVENTS, self.seed, epoch, step).random(num_events.sum())
        drawn = drawn[num_events[: mine.start].sum() :][: index.size]
        times = np.take(self.log.events.times, index)
        stays = keep_events(times, num_events[mine], kept[mine], drawn)
        return index[stays], kept[mine]


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


def _whole_tables(log: PreparedLog, target: str | None) -> dict[str, np.ndarray]:
    """Key -> every row but the first of the tables of the side target and, if given, the target."""
    features = [name for name in (target, log.schema.side_target) if name is not None]
    rows = {name: log.table_rows[log.schema.feature(name).table] for name in features}
    return {negative_key(name): np.arange(1, num_rows) for name, num_rows in rows.items()}


def _stochastic(alpha: float | None, length: int) -> StochasticLength | None:
    if alpha is None:
        return None
    stochastic = StochasticLength(alpha, length)
    if stochastic.threshold < MIN_EVENTS:
        raise ValueError(
            f"stochastic_length {alpha} would cut sequences of up to {length} events to "
            f"{stochastic.threshold}, which leaves no next event: set it nearer to 2, or "
            "segment_length higher"
        )
    return stochastic
