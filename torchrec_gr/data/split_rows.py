"""The rows of one split in the order of an epoch, decoded a window at a time."""

from __future__ import annotations

import bisect
from collections.abc import Callable

import numpy as np

from torchrec_gr.data.collate import join_rows
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.requests import request_starts, same_history, shuffle_groups
from torchrec_gr.data.rows import Rows
from torchrec_gr.data.shuffle import ROWS, WINDOW_ROWS, Window, generator, windows


class SplitRows:
    """Decodes one split's rows; the last window stays, so a small split is decoded only once.

    Args:
        log: prepared.
        split: one of `log.splits`.
        known_before: gives for times [N] the moments [N] that histories end before. Rows of one
            user and moment are then kept together; left out, rows of one request are.
    """

    def __init__(
        self,
        log: PreparedLog,
        split: str,
        known_before: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.schema = log.schema
        self._known_before = known_before
        self._log = log
        self._code = log.splits.index(split)
        self._counts = [block.counts[self._code] for block in log.blocks]
        self._decoded: tuple[int, ...] = ()
        self._rows = join_rows(self.schema, [])

    @property
    def num_rows(self) -> int:
        """Rows of the split."""
        return sum(self._counts)

    def in_order(self, seed: int | None, epoch: int) -> EpochRows:
        """The rows in the order of one epoch; without a seed, in the log's."""
        return EpochRows(self, windows(self._counts, seed, epoch, WINDOW_ROWS), seed, epoch)

    def chunks(self) -> list[Window]:
        """The windows in the log's order, which hold the same rows in every epoch."""
        return windows(self._counts, None, 0, WINDOW_ROWS)

    def groups(self, rows: Rows) -> np.ndarray:
        """[N] int64: which rows are kept together."""
        if self._known_before is None:
            return np.cumsum(request_starts(self.schema, rows)) - 1
        return same_history(rows.user_index, self._known_before(rows.times))

    def of_blocks(self, blocks: tuple[int, ...]) -> Rows:
        """The split's rows in some blocks, one block after the other."""
        if blocks != self._decoded:
            # The last window is let go first: two would need twice the memory.
            self._decoded, self._rows = (), join_rows(self.schema, [])
            self._rows = join_rows(
                self.schema, [self._of_split(self._log.read_block(block)) for block in blocks]
            )
            self._decoded = blocks
        return self._rows

    def context_of_blocks(self, blocks: tuple[int, ...]) -> Rows:
        """The same rows without their candidates; they are not kept."""
        read = (self._log.read_block(block, ("contextual",)) for block in blocks)
        return join_rows(self.schema, [self._of_split(rows) for rows in read])

    def _of_split(self, rows: Rows) -> Rows:
        return rows.take(rows.split == self._code)


class EpochRows:
    """One epoch's rows in order; see `SplitRows.in_order`."""

    def __init__(
        self, split_rows: SplitRows, windows: list[Window], seed: int | None, epoch: int
    ) -> None:
        self._split_rows = split_rows
        self._windows = windows
        self._firsts = [window.first for window in windows]
        self._seed = seed
        self._epoch = epoch
        self._permuted: Window | None = None
        self._permutation = np.zeros(0, np.int64)

    def rows(self, first: int, end: int) -> Rows:
        """Rows first .. end - 1 of the order; windows that hold none of them are not decoded."""
        pieces: list[Rows] = []
        while first < end:
            window = self._windows[bisect.bisect_right(self._firsts, first) - 1]
            stop = min(end, window.first + window.num_rows)
            pieces.append(self._of_window(window, first - window.first, stop - window.first))
            first = stop
        return join_rows(self._split_rows.schema, pieces)

    def _of_window(self, window: Window, first: int, end: int) -> Rows:
        rows = self._split_rows.of_blocks(window.blocks)
        if self._seed is None:
            return rows.take(np.arange(first, end))
        if self._permuted is not window:
            drawn = generator(ROWS, self._seed, self._epoch, window.place)
            self._permutation = shuffle_groups(self._split_rows.groups(rows), drawn)
            self._permuted = window
        return rows.take(self._permutation[first:end])
