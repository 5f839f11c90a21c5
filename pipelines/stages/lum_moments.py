"""When an offline job asks which users, and which of its answers a row of a log may read."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from torchrec_gr.data.clock import DAY_HOURS, day_start, ticks
from torchrec_gr.data.known_before import HistoryAsOf, KnownBefore
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.sequences.request_batch import NO_TIME


@dataclasses.dataclass(frozen=True)
class UserMoments:
    """E times at which the job finds that a user's history has grown, by user, then moment.

    Args:
        users: [E] int64, places in the log's list of users.
        moments: [E] int64, when the job runs.
        start, end: [E] int64, the user's events before that: the newest `max_history` of them.
    """

    users: NDArray[np.int64]
    moments: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]

    def newest(
        self, users: NDArray[np.int64], known_before: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """[N] int64: of users [N] the place of their newest moment that is not after [N]; -1: none.

        A user of -1 is nobody.
        """
        runs, moment = np.unique(self.moments, return_inverse=True)
        width = len(runs) + 1
        seen = np.searchsorted(runs, known_before, side="right")
        place = np.searchsorted(self.users * width + moment + 1, users * width + seen, side="right")
        padded = np.concatenate([[-1], self.users])
        return np.where((users >= 0) & (padded[place] == users), place - 1, -1)


def user_moments(log: PreparedLog) -> UserMoments:
    """The moments of a log: the beginning of each day, by the log's clock.

    Where the log knows only an order, there is one moment a user, after all of their events: such a
    log is taken only if no row that is scored is an event.

    Raises:
        ValueError: the log has no histories, or knows only an order and its rows are events.
    """
    events, schema = log.events, log.schema
    if events is None:
        raise ValueError("LUM reads histories: this log has no history features")
    lengths = np.diff(events.user_starts)
    users = np.repeat(np.arange(len(lengths)), lengths)
    if schema.time_unit != "order":
        # An event of unknown time is older than all others; one day of room for the arithmetic.
        day = ticks(schema, DAY_HOURS)
        moments = day_start(schema, np.maximum(events.times, NO_TIME + 2 * day)) + day
    elif log.source.rows_are_events:
        raise ValueError(
            f"log {schema.name!r} knows only an order (time_unit 'order') and its rows are events: "
            "there is no moment at which all users could be asked without what was shown later. "
            "Use a log with times, or one whose scored rows are not in its histories, such as "
            "amazon-beauty"
        )
    else:
        last = events.user_starts[1:][lengths > 0] - 1
        moments = np.repeat(events.times[last] + 1, lengths[lengths > 0])
    is_last = np.ones(len(users), np.bool_)
    is_last[:-1] = (np.diff(users) != 0) | (np.diff(moments) != 0)
    last = np.flatnonzero(is_last)
    first = events.user_starts[users[last]]
    start = np.maximum(first, last + 1 - events.max_history)
    return UserMoments(users[last], moments[last], start, last + 1)


def row_entries(
    log: PreparedLog, history_as_of: HistoryAsOf, moments: UserMoments
) -> NDArray[np.int64]:
    """[R] int64: of each row of the log 1 + the place of the moment that it may read; 0: none.

    A row reads its user's newest moment that is not after where its history ends.

    Args:
        log: whose rows.
        history_as_of: how fresh histories are, for all models.
        moments: of the log's users.

    Raises:
        ValueError: a row of a log that knows only an order stands before some event of its user.
    """
    if not log.blocks:
        return np.zeros(0, np.int64)
    entries = np.zeros(log.blocks[-1].first_row + log.blocks[-1].num_rows, np.int64)
    known = [KnownBefore(log, split, history_as_of) for split in log.splits]
    for number in range(len(log.blocks)):
        rows = log.read_block(number, roles=())
        for split, known_before in enumerate(known):
            here = rows.take(rows.split == split)
            entries[here.source_rows] = 1 + moments.newest(
                here.user_index, known_before(here.times)
            )
            if log.schema.time_unit == "order":
                _require_all_events(moments, here.user_index, entries[here.source_rows])
    return entries


def _require_all_events(
    moments: UserMoments, users: NDArray[np.int64], entries: NDArray[np.int64]
) -> None:
    early = users[(entries == 0) & np.isin(users, moments.users)]
    if early.size:
        raise ValueError(
            f"{early.size} rows stand before an event of their user, such as user number "
            f"{early[0]}: in a log that knows only an order every scored row must be the user's "
            "last, or their answers would know the future"
        )
