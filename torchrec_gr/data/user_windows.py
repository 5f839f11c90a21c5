"""Rows of a log -> sequences: a user's exposures in a window of time, and their history."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from torchrec_gr.data.clock import period, ticks
from torchrec_gr.data.event_store import EventStore
from torchrec_gr.data.known_before import KnownBefore
from torchrec_gr.data.rows import Rows
from torchrec_gr.schema.feature_schema import FeatureSchema


@dataclasses.dataclass(frozen=True)
class UserWindows:
    """S sequences of N rows.

    Args:
        order: [N] int64, the rows, sequence after sequence, oldest first.
        offsets: [S + 1] int64; sequence s has the rows order[offsets[s]:offsets[s + 1]].
        start, end: [S] int64; its history is events start[s]:end[s].
        static_end: [S] int64; events start[s]:static_end[s] are long-term.
        tokens: [S] int64: its contextual features, its events and its exposures.
        is_split: [S] bool: it is the first of several that its window was split into.
        is_truncated: [S] bool: the user has earlier events that the history leaves out.
    """

    order: NDArray[np.int64]
    offsets: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    static_end: NDArray[np.int64]
    tokens: NDArray[np.int64]
    is_split: NDArray[np.bool_]
    is_truncated: NDArray[np.bool_]

    @property
    def num_sequences(self) -> int:
        """S."""
        return len(self.start)


class UserWindower:
    """Makes sequences of rows.

    A sequence is the exposures of one user in one window, by time and then by the log's order. A
    window is split where it has more than `max_candidates` exposures, where its history would have
    more than `max_history + max_candidates` events, and where a contextual feature changes that is
    not one of `schema.request_features`, since a sequence has one value of it. A row of no user is
    a sequence of its own.

    The history holds the newest `schema.max_history` events that the first exposure knows, and
    those that come to be known until the last one. None of them is dropped for later ones: what an
    exposure sees would then depend on what comes after it.

    Args:
        schema: of the log.
        events: of the log; None where it has no history.
        known_before: gives a row's time the moment that its history ends before.
        window_hours: the length of a window, counted by the schema's clock; None: one window.
        max_candidates: exposures of a sequence.
        real_time_hours: an event so long before what the first exposure knows is long-term, and one
            without a time. Where the log knows only an order, what the first exposure knows is.

    Raises:
        ValueError: a number outside its range, or windows of hours in a log without times.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        events: EventStore | None,
        known_before: KnownBefore,
        *,
        window_hours: float | None,
        max_candidates: int,
        real_time_hours: float,
    ) -> None:
        if window_hours is not None and not schema.has_clock:
            raise ValueError(
                "window_hours needs times, but this log has none or knows only an order: "
                "use None, one window for all of a user's rows"
            )
        if window_hours is not None and not _is_length(schema, window_hours):
            raise ValueError(f"window_hours must be a length of time or None, got {window_hours}")
        if max_candidates < 1:
            raise ValueError(f"max_candidates must be at least 1, got {max_candidates}")
        if not 0 <= real_time_hours < math.inf:
            raise ValueError(f"real_time_hours must be at least 0, got {real_time_hours}")
        self.schema = schema
        self.events = events
        self.known_before = known_before
        self.window_hours = window_hours
        self.max_candidates = max_candidates
        self._real_time = ticks(schema, real_time_hours) if schema.has_clock else 0

    @property
    def num_contextual(self) -> int:
        """Contextual tokens of a sequence."""
        return len(sequence_features(self.schema))

    def windows(self, rows: Rows) -> UserWindows:
        """The sequences of some rows, by user and time.

        Args:
            rows: N of one split, with their contextual features at least.
        """
        window = self._windows(rows.times)
        order = np.lexsort((rows.times, window, rows.user_index))
        known = self._known(rows, order)
        first, is_split = self._firsts(rows, window, order, known)
        last = np.append(first[1:], len(rows)) - 1
        start, end = known.start[first], known.end[last[: len(first)]]
        return UserWindows(
            order=order,
            offsets=np.append(first, len(rows)),
            start=start,
            end=end,
            static_end=np.maximum(self._static_end(rows, order[first]), start),
            tokens=self.num_contextual + (end - start) + np.diff(first, append=len(rows)),
            is_split=is_split,
            is_truncated=known.first[first] < start,
        )

    def _windows(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.window_hours is None:
            return np.zeros_like(times)
        return period(self.schema, times, self.window_hours)

    def _firsts(
        self, rows: Rows, window: NDArray[np.int64], order: NDArray[np.int64], known: _Known
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where sequences begin in `order`, and which of them begin a window that is split."""
        user = rows.user_index[order]
        begins_window = _changes(user) | _changes(window[order]) | (user < 0)
        begins = begins_window.copy()
        for name in sequence_features(self.schema):
            values = rows.ids[name] if name in rows.ids else rows.dense[name]
            begins |= _changes(values[order])
        most_events = self.schema.max_history + self.max_candidates
        begins = _split_long(begins, known, most_events, self.max_candidates)
        first = np.flatnonzero(begins)
        whole = begins_window[first]
        goes_on = ~np.append(whole[1:], True)[: len(first)]
        return first, whole & goes_on

    def _known(self, rows: Rows, order: NDArray[np.int64]) -> _Known:
        if self.events is None:
            none = np.zeros(len(order), np.int64)
            return _Known(none, none, none)
        known_before = self.known_before(rows.times[order])
        return _Known(*self.events.before(rows.user_index[order], known_before))

    def _static_end(self, rows: Rows, which: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the long-term events end that some rows know."""
        if self.events is None:
            return np.zeros(len(which), np.int64)
        long_ago = self.known_before(rows.times[which]) - self._real_time
        return self.events.before(rows.user_index[which], long_ago)[2]


class _Known(NamedTuple):
    """What each of N rows alone knows, as places of events.

    Args:
        first, end: [N] int64; it knows the events first:end.
        start: [N] int64; the newest of them, start:end, are its history.
    """

    first: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]


def _split_long(
    begins: NDArray[np.bool_], known: _Known, most_events: int, max_candidates: int
) -> NDArray[np.bool_]:
    """Where sequences begin, [N], once each of them has few enough exposures and events.

    Args:
        begins: [N] bool, where they begin in any case.
        known: by each row alone.
        most_events: from the first row's start to the last row's end.
        max_candidates: rows.
    """
    begins, place = begins.copy(), np.arange(len(begins))
    while True:
        begin = np.maximum.accumulate(np.where(begins, place, 0))
        all_begins = (place - begin) % max_candidates == 0
        first = np.maximum.accumulate(np.where(all_begins, place, 0))
        too_long = np.flatnonzero(known.end - known.start[first] > most_events)
        if not len(too_long):
            return all_begins
        # Of each stretch the first such row: those behind it are counted from it on.
        begins[too_long[np.unique(begin[too_long], return_index=True)[1]]] = True


def _is_length(schema: FeatureSchema, hours: float) -> bool:
    return 0 < hours < math.inf and ticks(schema, hours) > 0


def sequence_features(schema: FeatureSchema) -> list[str]:
    """The contextual features of which a sequence has one value, categorical ones first."""
    contextual = (*schema.of("contextual"), *schema.of("contextual", "dense"))
    return [f.name for f in contextual if f.name not in schema.request_features]


def _changes(values: np.ndarray) -> NDArray[np.bool_]:
    """[N]: this one is not the one before it; the first is not."""
    changes = np.ones(len(values), np.bool_)
    changes[1:] = values[1:] != values[:-1]
    return changes
