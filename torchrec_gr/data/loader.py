"""A prepared log -> batches of one split, as requests or as impressions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np

from torchrec_gr.data.collate import collate_requests
from torchrec_gr.data.known_before import HistoryAsOf, KnownBefore
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.rows import Rows
from torchrec_gr.data.sliced_loader import SlicedLoader
from torchrec_gr.data.split_rows import SplitRows
from torchrec_gr.data.step_loader import fingerprint
from torchrec_gr.schema.feature_schema import nearest_valid
from torchrec_gr.sequences.impressions import to_impressions
from torchrec_gr.sequences.request_batch import ImpressionBatch, RequestBatch

View = Literal["requests", "impressions"]


class RequestLoader(SlicedLoader[RequestBatch | ImpressionBatch]):
    """Reads the rows of one split, each with its user's history as it was known.

    Neighbouring rows of one user, moment and context are one request with several candidates.
    Computed features count what the row's history may hold: what is earlier than where it ends.
    Blocks are read in an order that seed and epoch decide, about a million rows at a time, and
    those rows are permuted, a request's together; batches run over the borders of these windows.
    Under "day" rows of one user and day, which have one history, stay together as well, so that a
    model that finds equal histories encodes them once.
    Every rank decodes the windows that it takes rows from, and keeps the last: a split of one
    window is decoded once.

    `counts` adds up, over what this rank has read, "rows", "steps", "empty_histories" and
    "truncated_histories" (longer than `schema.max_history`: their newest events were kept).

    Args:
        log: prepared.
        split: which of `log.splits`.
        batch_size: rows a step, over all ranks.
        view: "requests", or "impressions" for models that score one row at a time.
        history_as_of: which events a row's history holds. "exposure": those before the row's time.
            "day": those before the row's day began, by the schema's clock. "split": those before
            the row's time and before the first time of its split; in training, as "exposure".
        seed: of the order; None: file order in every epoch.
        rank, world_size: of this process.
        pad: gives all ranks the same number of impressions in a step, by rows of weight 0: an
            EmbeddingBagCollection sharded ROW_WISE fails without.

    Raises:
        ValueError: a setting that is unknown or that the log cannot serve.
    """

    def __init__(
        self,
        log: PreparedLog,
        split: str,
        *,
        batch_size: int,
        view: View = "requests",
        history_as_of: HistoryAsOf = "exposure",
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        pad: bool = False,
    ) -> None:
        _check(view, pad)
        self._known_before = KnownBefore(log, split, history_as_of)
        by_day = self._known_before.by_day
        self._split_rows = SplitRows(log, split, self._known_before if by_day else None)
        super().__init__(
            self._split_rows.num_rows,
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            settings={
                "split": split,
                "history_as_of": history_as_of,
                "log": fingerprint(log),
            },
        )
        self.log = log
        self.split = split
        self.view = view
        self.history_as_of = history_as_of
        self.pad = pad

    @property
    def num_rows(self) -> int:
        """Rows of the split, over all ranks."""
        return self.num_units

    def _batches(self, epoch: int, first_step: int) -> Iterator[RequestBatch | ImpressionBatch]:
        order = self._split_rows.in_order(self.seed, epoch)
        for step in range(first_step, self.num_steps):
            yield self._collate(order.rows(*self._slice(step)), step)

    def _collate(self, rows: Rows, step: int) -> RequestBatch | ImpressionBatch:
        self.counts["rows"] += len(rows)
        known_before = self._known_before(rows.times)
        start, end = self._histories(rows, known_before)
        if self.log.crosses is not None:
            rows = self.log.crosses.fill(rows, known_before)
        batch = collate_requests(self.log.schema, rows, self.log.events, start, end, known_before)
        if self.view == "requests":
            return batch
        return to_impressions(batch, num_rows=self._most_rows(step) if self.pad else None)

    def _histories(self, rows: Rows, known_before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which events each row's history holds: start and end, [N] int64 each."""
        if self.log.events is None:
            return np.zeros_like(rows.times), np.zeros_like(rows.times)
        first, start, end = self.log.events.before(rows.user_index, known_before)
        self.counts["empty_histories"] += int((first == end).sum())
        self.counts["truncated_histories"] += int((first < start).sum())
        return start, end

    def _most_rows(self, step: int) -> int:
        """The most rows that any rank takes in a step."""
        num_rows = min(self.batch_size, self.num_units - step * self.batch_size)
        return -(-num_rows // self.world_size)


def _check(view: str, pad: bool) -> None:
    if view not in get_args(View):
        raise ValueError(nearest_valid("view", view, get_args(View)))
    if pad and view != "impressions":
        raise ValueError("pad=True fills impressions up: use it with view='impressions'")
