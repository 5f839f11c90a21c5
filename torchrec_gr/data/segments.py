"""Where the users' events are cut into the sequences of an epoch."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from torchrec_gr.data.shuffle import SHIFTS, generator
from torchrec_gr.schema.feature_schema import nearest_valid

Cut = Literal["newest", "segments", "sliding"]

MIN_EVENTS = 2
"""A shorter sequence has no next event to predict."""


class Segments(NamedTuple):
    """S stretches of events, user after user, oldest first.

    Args:
        users: [S] int64.
        start, end: [S] int64; segment i holds events start[i]:end[i] of all users' events.
    """

    users: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]


class Segmenter:
    """Cuts every user's events into segments; a user of fewer than two events has none.

    Args:
        offsets: [U + 1] int64; the events of user u, oldest first, are offsets[u]:offsets[u + 1].
        cut: "newest": one segment of a user's newest events; those before it are in none.
            "segments": all of them, in full segments counted back from the newest and one of what
            is left over, which takes an event off its neighbour rather than be one event alone.
            "sliding": all of them, in full segments between a first and a last one, and where the
            first one ends is drawn anew for every epoch. A user of more than `length` events has
            as many segments in every epoch: as few as hold them, or one more where that leaves
            more places to draw from.
        length: events in a full segment; at least 2, and 3 where no event is left out: an odd
            number of events cannot be cut into pairs.

    Raises:
        ValueError: an unknown cut, or a length that is too small for it.

    Source: PinFM, 2507.12704, pretraining ("segments"); Netflix's foundation model, its sampling of
        long histories by a sliding window ("sliding"; that an epoch loses and repeats no event is
        our reading).
    """

    def __init__(self, offsets: NDArray[np.int64], cut: Cut, length: int) -> None:
        _check(cut, length)
        num_events = np.diff(offsets)
        self.cut = cut
        self.length = length
        self._num_users = num_events.size
        self._users = np.flatnonzero(num_events >= MIN_EVENTS)
        self._begin = offsets[:-1][self._users]
        self._num_events = num_events[self._users]
        self._num_each = np.ones_like(self._users)
        if cut != "newest":
            self._num_each = -(-self._num_events // length)
        if cut == "sliding":
            few, more = self._num_each, self._num_each + 1
            wider = np.diff(self._firsts(more), axis=0)[0] > np.diff(self._firsts(few), axis=0)[0]
            self._num_each = np.where(wider & (few > 1), more, few)

    @property
    def num_segments(self) -> int:
        """S, the same in every epoch."""
        return int(self._num_each.sum())

    @property
    def num_skipped(self) -> int:
        """Users of fewer than two events."""
        return self._num_users - self._users.size

    @property
    def num_cut(self) -> int:
        """Users of more events than one segment holds."""
        return int((self._num_events > self.length).sum())

    @property
    def num_events(self) -> int:
        """Events in the segments, the same number in every epoch."""
        kept = self._num_events
        if self.cut == "newest":
            kept = np.minimum(kept, self.length)
        return int(kept.sum())

    def segments(self, seed: int, epoch: int) -> Segments:
        """The segments of one epoch, the same on every rank."""
        users = np.repeat(np.arange(self._users.size), self._num_each)
        num_events = self._num_events[users]
        place = np.arange(users.size) - (np.cumsum(self._num_each) - self._num_each)[users]
        if self.cut == "newest":
            start = np.maximum(num_events - self.length, 0)
        else:
            start = self._first(seed, epoch)[users] + (place - 1) * self.length
            start[place == 0] = 0
            start[start == 1] = MIN_EVENTS  # one event alone takes another off its neighbour
        is_last = np.append(place[1:] == 0, True)
        end = np.where(is_last, num_events, np.append(start[1:], 0))
        begin = self._begin[users]
        return Segments(self._users[users], begin + start, begin + end)

    def _first(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Events in the first segment of each user who has more than one."""
        if self.cut == "segments":
            return self._num_events - (self._num_each - 1) * self.length
        least, most = self._firsts(self._num_each)
        return generator(SHIFTS, seed, epoch).integers(least, most + 1)

    def _firsts(self, num_each: NDArray[np.int64]) -> NDArray[np.int64]:
        """[2, users]: the least and most events of a first segment, in so many segments.

        The first and the last share what the full ones between them leave over.
        """
        shared = self._num_events - (num_each - 2) * self.length
        least = np.maximum(shared - self.length, MIN_EVENTS)
        return np.stack([least, np.minimum(shared - MIN_EVENTS, self.length)])


def _check(cut: str, length: int) -> None:
    if cut not in get_args(Cut):
        raise ValueError(nearest_valid("cut", cut, get_args(Cut)))
    least = MIN_EVENTS if cut == "newest" else MIN_EVENTS + 1
    if length < least:
        raise ValueError(f"segment_length must be at least {least} with cut={cut!r}, got {length}")
