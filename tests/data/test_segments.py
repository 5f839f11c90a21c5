"""How events are cut into sequences: nothing lost, nothing twice, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_gr.data.segments import Cut, Segmenter

NUM_EVENTS = st.lists(st.integers(0, 40), max_size=12)
EPOCHS = range(12)


def segmenter(num_events: list[int], cut: Cut, length: int) -> Segmenter:
    return Segmenter(np.cumsum([0, *num_events]), cut, length)


def lengths(cutter: Segmenter, epoch: int, num_users: int, seed: int = 0) -> list[list[int]]:
    """Each user's segments, which must follow one another through that user's events."""
    found: list[list[int]] = [[] for _ in range(num_users)]
    users, start, end = cutter.segments(seed, epoch)
    for i, user in enumerate(users):
        if found[user]:
            assert start[i] == end[i - 1]
        found[user].append(int(end[i] - start[i]))
    return found


def counted_back(num_events: int, length: int) -> list[int]:
    """Full segments from the newest on; the rest, which is never one event, is the oldest."""
    if num_events < 2:
        return []
    found: list[int] = []
    while num_events > length:
        found.insert(0, length)
        num_events -= length
    if num_events == 1:
        found[0] -= 1
        num_events = 2
    return [num_events, *found]


@given(NUM_EVENTS, st.integers(2, 9))
def test_newest_is_the_end_of_each_user_s_events(num_events: list[int], length: int) -> None:
    cutter = segmenter(num_events, "newest", length)
    users, start, end = cutter.segments(0, 0)
    ends = np.cumsum(num_events)
    expected = [(u, ends[u] - min(n, length), ends[u]) for u, n in enumerate(num_events) if n >= 2]
    assert list(zip(users, start, end, strict=True)) == expected
    assert cutter.num_segments == len(expected)


@given(NUM_EVENTS, st.integers(3, 9))
def test_segments_are_counted_back_from_the_newest(num_events: list[int], length: int) -> None:
    cutter = segmenter(num_events, "segments", length)
    expected = [counted_back(n, length) for n in num_events]
    assert lengths(cutter, 0, len(num_events)) == expected
    assert cutter.num_segments == sum(map(len, expected))
    assert cutter.num_events == sum(map(sum, expected))
    assert cutter.num_skipped == sum(n < 2 for n in num_events)
    assert cutter.num_cut == sum(n > length for n in num_events)


@settings(max_examples=300)
@given(NUM_EVENTS, st.integers(3, 9), st.integers(0, 5))
def test_sliding_segments_hold_every_event_once_in_every_epoch(
    num_events: list[int], length: int, seed: int
) -> None:
    cutter = segmenter(num_events, "sliding", length)
    epochs = [lengths(cutter, epoch, len(num_events), seed) for epoch in EPOCHS]
    for of_users in epochs:
        assert sum(map(len, of_users)) == cutter.num_segments
        for total, first, found in zip(num_events, epochs[0], of_users, strict=True):
            assert len(found) == len(first)
            assert sum(found) == (total if total >= 2 else 0)
            assert all(2 <= n <= length for n in found)
            assert set(found[1:-1]) <= {length}
            if total <= length:
                assert len(found) <= 1


@pytest.mark.parametrize("num_events", range(9, 30))
def test_sliding_segments_begin_at_nearly_half_of_the_places_or_more(num_events: int) -> None:
    cutter = segmenter([num_events], "sliding", 8)
    firsts = {lengths(cutter, epoch, 1)[0][0] for epoch in range(200)}
    assert len(firsts) >= 3
    assert firsts == set(range(min(firsts), max(firsts) + 1))
    assert lengths(cutter, 3, 1) == lengths(cutter, 3, 1)
    assert any(lengths(cutter, e, 1) != lengths(cutter, e, 1, seed=1) for e in EPOCHS)


def test_users_slide_apart() -> None:
    epochs = [lengths(segmenter([50] * 20, "sliding", 10), epoch, 20) for epoch in range(2)]
    assert len({found[0] for found in epochs[0]}) > 3
    assert epochs[0] != epochs[1]


def test_cuts_and_lengths_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown cut 'segment': did you mean 'segments'"):
        segmenter([5], "segment", 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 2 with cut='newest', got 1"):
        segmenter([5], "newest", 1)
    for cut in ("segments", "sliding"):
        with pytest.raises(ValueError, match=f"at least 3 with cut='{cut}', got 2"):
            segmenter([5], cut, 2)  # type: ignore[arg-type]
