"""A prepared log -> batches of user windows, cut by their number of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from torchrec_gr.data.collate import Histories, collate_windows, ranges
from torchrec_gr.data.known_before import HistoryAsOf, KnownBefore
from torchrec_gr.data.log_source import TRAIN
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.rank_shares import rank_shares
from torchrec_gr.data.rows import Rows
from torchrec_gr.data.shuffle import BLOCKS, EVENTS, LENGTHS, SEQUENCES, generator
from torchrec_gr.data.split_rows import SplitRows
from torchrec_gr.data.step_loader import StepLoader, fingerprint
from torchrec_gr.data.token_batches import num_token_steps, token_cuts
from torchrec_gr.data.user_windows import UserWindower, UserWindows
from torchrec_gr.sequences.request_batch import RequestBatch
from torchrec_gr.sequences.stochastic_length import StochasticLength, keep_events


class WindowLoader(StepLoader[RequestBatch]):
    """Reads one split's rows as sequences: all exposures of a user in a window, and their history.

    A sequence is one request of the batch (see `UserWindower`). Its history holds what any of its
    exposures knows; `candidate_times` says up to where each one does, whatever `history_as_of` is,
    so a model must hide events that are not strictly earlier. `num_static` leading ones are
    long-term. The schema's `request_features` are among the candidates' (see `collate_windows`).

    A batch holds about `batch_tokens` tokens over all ranks, and each rank gets about as much work
    of them (see `rank_shares`); one that gets none has one empty request. Tokens are a sequence's
    contextual features, events and exposures. With `stochastic_length` there are as many steps as
    without, and the tokens that are left are cut into them.

    Blocks are read about a million rows at a time, always the same ones together, and sequences do
    not reach over the borders of these chunks, so the number of steps is known from the start: for
    that, users, times and context of the split are read once. A smaller split is one chunk and is
    decoded once.

    `counts` adds up, over what this rank has read, "rows", "steps", "sequences", "tokens",
    "split_windows" (in several sequences), "truncated_histories" (their newest events were kept)
    and "empty_histories".

    Args:
        log: prepared.
        split: which of `log.splits`.
        batch_tokens: tokens a step, over all ranks.
        window_hours: the length of a window; None: all of a user's rows that are read together.
        max_candidates: exposures of a sequence; a window of more is split.
        real_time_hours: an event so long before what the first exposure knows is long-term.
        stochastic_length: alpha of `StochasticLength`, to train on a random part of long histories.
        history_as_of: as RequestLoader takes it.
        seed: of the order and of what is drawn; None: the order of the log in every epoch.
        rank, world_size: of this process.

    Raises:
        ValueError: a setting that is unknown, out of its range, or that the log cannot serve.

    Source: MTGR, 2505.18654 (user-level aggregation); MTGenRec, 2505.12663 (sequence balancing).
    """

    def __init__(
        self,
        log: PreparedLog,
        split: str,
        *,
        batch_tokens: int,
        window_hours: float | None = None,
        max_candidates: int = 256,
        real_time_hours: float = 24.0,
        stochastic_length: float | None = None,
        history_as_of: HistoryAsOf = "exposure",
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1, got {batch_tokens}")
        self._known_before = KnownBefore(log, split, history_as_of)
        self._windower = UserWindower(
            log.schema,
            log.events,
            self._known_before,
            window_hours=window_hours,
            max_candidates=max_candidates,
            real_time_hours=real_time_hours,
        )
        self._stochastic = _stochastic(log, split, stochastic_length, seed)
        super().__init__(
            seed=seed,
            rank=rank,
            world_size=world_size,
            settings={
                "batch_tokens": batch_tokens,
                "split": split,
                "window_hours": window_hours,
                "max_candidates": max_candidates,
                "stochastic_length": stochastic_length,
                "history_as_of": history_as_of,
                "log": fingerprint(log),
            },
        )
        self.log = log
        self.split = split
        self.batch_tokens = batch_tokens
        self.history_as_of = history_as_of
        self._split_rows = SplitRows(log, split)
        self._chunks = self._split_rows.chunks()
        self._formed: tuple[int, UserWindows] | None = None
        self._chunk_steps = [self._num_steps_of(chunk) for chunk in range(len(self._chunks))]

    @property
    def num_steps(self) -> int:
        """Steps of one epoch."""
        return sum(self._chunk_steps)

    @property
    def num_rows(self) -> int:
        """Rows of the split, over all ranks."""
        return self._split_rows.num_rows

    def _num_steps_of(self, chunk: int) -> int:
        if len(self._chunks) == 1:
            _, windows = self._read(chunk)
        else:
            rows = self._split_rows.context_of_blocks(self._chunks[chunk].blocks)
            windows = self._windower.windows(rows)
        return num_token_steps(int(windows.tokens.sum()), windows.num_sequences, self.batch_tokens)

    def _read(self, chunk: int) -> tuple[Rows, UserWindows]:
        """A chunk's rows and sequences; the last one read is kept."""
        rows = self._split_rows.of_blocks(self._chunks[chunk].blocks)
        if self._formed is None or self._formed[0] != chunk:
            self._formed = None  # two would need twice the memory
            self._formed = (chunk, self._windower.windows(rows))
        return rows, self._formed[1]

    def _batches(self, epoch: int, first_step: int) -> Iterator[RequestBatch]:
        chunks = np.arange(len(self._chunks))
        if self.seed is not None:
            chunks = generator(BLOCKS, self.seed, epoch).permutation(chunks)
        step = 0  # the first of the chunk
        for chunk in chunks.tolist():
            num_steps = self._chunk_steps[chunk]
            if first_step < step + num_steps:
                yield from self._chunk_batches(epoch, chunk, step, max(first_step - step, 0))
            step += num_steps

    def _chunk_batches(
        self, epoch: int, chunk: int, first_step: int, num_skipped: int
    ) -> Iterator[RequestBatch]:
        """The batches of one chunk, whose first step of the epoch is given, but for the first."""
        rows, windows = self._read(chunk)
        plan = self._plan(windows, epoch, chunk)
        for place in range(num_skipped, self._chunk_steps[chunk]):
            of_step = plan.order[plan.cuts[place] : plan.cuts[place + 1]]
            yield self._batch(rows, plan, of_step, epoch, first_step + place)

    def _plan(self, windows: UserWindows, epoch: int, chunk: int) -> _Plan:
        num_events = windows.end - windows.start
        kept = num_events
        order = np.argsort(windows.order[windows.offsets[:-1]])  # by their first exposures
        if self.seed is not None:
            order = generator(SEQUENCES, self.seed, epoch, chunk).permutation(order)
            if self._stochastic is not None:
                drawn = generator(LENGTHS, self.seed, epoch, chunk)
                kept = self._stochastic.lengths(num_events, drawn)
        tokens = windows.tokens - num_events + kept
        cuts = token_cuts(tokens[order], self._chunk_steps[chunk])
        return _Plan(windows, order, kept, tokens, cuts)

    def _batch(
        self, rows: Rows, plan: _Plan, of_step: np.ndarray, epoch: int, step: int
    ) -> RequestBatch:
        """This rank's share of a step's sequences."""
        places = rank_shares(plan.tokens[of_step], self.world_size)[self.rank]
        histories = self._histories(plan, of_step, places, epoch, step)
        mine, windows = of_step[places], plan.windows
        begin, stop = windows.offsets[mine], windows.offsets[mine + 1]
        rows = rows.take(windows.order[ranges(begin, stop)])
        known_before = self._known_before(rows.times)
        if self.log.crosses is not None:
            rows = self.log.crosses.fill(rows, known_before)
        self._count(plan, mine, len(rows))
        num_rows = stop - begin
        begins = np.cumsum(num_rows) - num_rows
        return collate_windows(
            self.log.schema, rows, self.log.events, begins, histories, known_before
        )

    def _histories(
        self, plan: _Plan, of_step: np.ndarray, places: np.ndarray, epoch: int, step: int
    ) -> Histories:
        """The histories of the sequences at some places of a step."""
        windows, mine = plan.windows, of_step[places]
        start, static_end = windows.start[mine], windows.static_end[mine]
        index, lengths = ranges(start, windows.end[mine]), windows.end[mine] - start
        if self._stochastic is None:
            return Histories(index, lengths, static_end - start)
        assert self.log.events is not None  # checked
        assert self.seed is not None  # checked
        # Numbers are drawn for the whole step: who reads a sequence does not change its events.
        ends = np.cumsum((windows.end - windows.start)[of_step])
        drawn = generator(EVENTS, self.seed, epoch, step).random(ends[-1])
        drawn = drawn[ranges(ends[places] - lengths, ends[places])]
        times, kept = np.take(self.log.events.times, index), plan.num_kept[mine]
        stays = keep_events(times, lengths, kept, drawn)
        sequence = np.repeat(np.arange(len(mine)), lengths)
        is_static = stays & (index < static_end[sequence])
        num_static = np.bincount(sequence[is_static], minlength=len(mine))
        return Histories(index[stays], kept, num_static)

    def _count(self, plan: _Plan, mine: np.ndarray, num_rows: int) -> None:
        windows = plan.windows
        self.counts["rows"] += num_rows
        self.counts["sequences"] += len(mine)
        self.counts["tokens"] += int(plan.tokens[mine].sum())
        self.counts["split_windows"] += int(windows.is_split[mine].sum())
        self.counts["truncated_histories"] += int(windows.is_truncated[mine].sum())
        self.counts["empty_histories"] += int((windows.end == windows.start)[mine].sum())


class _Plan(NamedTuple):
    """One chunk in one epoch: S sequences.

    Args:
        windows: the chunk's.
        order: [S] int64, in which its sequences are read.
        num_kept: [S] int64, events of each that are kept.
        tokens: [S] int64, of each with these events.
        cuts: [steps + 1] int64: step k reads order[cuts[k]:cuts[k + 1]].
    """

    windows: UserWindows
    order: np.ndarray
    num_kept: np.ndarray
    tokens: np.ndarray
    cuts: np.ndarray


def _stochastic(
    log: PreparedLog, split: str, alpha: float | None, seed: int | None
) -> StochasticLength | None:
    if alpha is None:
        return None
    if split != TRAIN:
        raise ValueError(f"stochastic_length is for training: leave it out for {split!r}")
    if seed is None:
        raise ValueError("stochastic_length draws events: give a seed")
    if log.events is None:
        raise ValueError("stochastic_length needs histories: this log has no history features")
    return StochasticLength(alpha, log.schema.max_history)
