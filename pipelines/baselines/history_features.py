"""What a history says of a candidate, as numbers for trees."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.schema.feature import TICKS_PER_SECOND
from torchrec_gr.sequences.request_batch import NO_TIME, RequestBatch

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MAX_FEEDBACK_VALUES = 8
RECENT_EVENTS = 10


@dataclasses.dataclass(frozen=True)
class HistoryFeatures:
    """Computes them for the candidates of a batch.

    Args:
        pairs: history features and the candidate features of the same table.
        feedback: history features of few values that no candidate has, and how many rows each has.
        ticks_per_second: of the log's times; None where it knows only an order.
    """

    pairs: tuple[tuple[str, str], ...]
    feedback: tuple[tuple[str, int], ...]
    ticks_per_second: int | None

    @classmethod
    def of(cls, log: PreparedLog) -> HistoryFeatures:
        """What the log's schema has."""
        schema, table_rows = log.schema, log.table_rows
        pairs, feedback = [], []
        for feature in schema.of("history"):
            candidate = schema.candidate_of(feature.name)
            assert feature.table is not None
            if candidate is not None:
                pairs.append((feature.name, candidate.name))
            elif table_rows[feature.table] <= MAX_FEEDBACK_VALUES:
                feedback.append((feature.name, table_rows[feature.table]))
        return cls(tuple(pairs), tuple(feedback), TICKS_PER_SECOND.get(schema.time_unit))

    def __call__(self, batch: RequestBatch) -> dict[str, Floats]:
        """Name -> [C] float64, NaN where a history has nothing to say."""
        if not batch.history:
            return {}
        spans = _Spans.of(batch)
        columns = {"history_length": spans.lengths.astype(np.float64)}
        if self.ticks_per_second is not None:
            times = batch.history_times.numpy()
            columns |= _ages(batch, spans, times, self.ticks_per_second)
        said: dict[str, NDArray[np.bool_]] = {}
        for name, num_rows in self.feedback:
            values = batch.ids[name].values().numpy()[spans.positions]
            said |= {f"{name}={row}": values == row for row in range(1, num_rows)}
        recent = spans.from_end < RECENT_EVENTS
        for name, holds in said.items():
            columns[f"share_{name}"] = _share(spans.sum(holds), spans.lengths)
            columns[f"recent_share_{name}"] = _share(spans.sum(holds & recent), spans.sum(recent))
        for history, candidate in self.pairs:
            columns |= _matches(batch, spans, history, candidate, said)
        return columns


@dataclasses.dataclass(frozen=True)
class _Spans:
    """The histories of C candidates, one after another: E events in all.

    Args:
        positions: [E] where each event is in the batch.
        candidate: [E] whose it is.
        from_end: [E] how many newer events that history has.
        ends: [C] where in the batch each history ends.
        lengths: [C].
    """

    positions: Ints
    candidate: Ints
    from_end: Ints
    ends: Ints
    lengths: Ints

    @classmethod
    def of(cls, batch: RequestBatch) -> _Spans:
        num_candidates = batch.num_candidates.numpy()
        of_request = batch.num_history().numpy()
        lengths = np.repeat(of_request, num_candidates)
        ends = np.repeat(np.cumsum(of_request), num_candidates)
        candidate = np.repeat(np.arange(lengths.size), lengths)
        from_start = np.arange(candidate.size) - (np.cumsum(lengths) - lengths)[candidate]
        from_end = lengths[candidate] - 1 - from_start
        return cls(ends[candidate] - 1 - from_end, candidate, from_end, ends, lengths)

    def sum(self, holds: NDArray[np.bool_]) -> Ints:
        """[C] events of each history for which it holds."""
        return np.bincount(self.candidate[holds], minlength=self.lengths.size)


def _ages(batch: RequestBatch, spans: _Spans, times: Ints, ticks: int) -> dict[str, Floats]:
    """Log seconds since the newest event, and since the RECENT_EVENTS-th newest."""
    now = batch.candidate_times.numpy()
    columns = {}
    for name, back in (("last", 1), ("recent", RECENT_EVENTS)):
        log_seconds = np.full(now.size, np.nan)
        has = spans.lengths >= back
        then = times[spans.ends[has] - back]
        since = np.where(then == NO_TIME, np.nan, (now[has] - then) / ticks)
        log_seconds[has] = np.log1p(since)
        columns[f"log_seconds_since_{name}_event"] = log_seconds
    return columns


def _matches(
    batch: RequestBatch,
    spans: _Spans,
    history: str,
    candidate: str,
    said: dict[str, NDArray[np.bool_]],
) -> dict[str, Floats]:
    """How many events share the candidate's value, how long ago, and what was said of them."""
    value = batch.ids[candidate].values().numpy()
    past = batch.ids[history].values().numpy()
    wanted = value[spans.candidate]
    same = (past[spans.positions] == wanted) & (wanted > 0)  # row 0 stands for many ids
    counts = spans.sum(same)
    newest = np.full(counts.size, np.nan)
    newest[spans.candidate[same]] = spans.from_end[same]  # the last, newest one stays
    columns = {f"same_{candidate}": counts.astype(np.float64), f"since_{candidate}": newest}
    for name, holds in said.items():
        columns[f"same_{candidate}_share_{name}"] = _share(spans.sum(same & holds), counts)
    return columns


def _share(part: Ints, whole: Ints) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
