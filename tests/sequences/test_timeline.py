"""What lies before events and candidates, counted one by one."""

from __future__ import annotations

import random

import pytest
import torch

from torchrec_gr.sequences.request_batch import NO_TIME
from torchrec_gr.sequences.timeline import Before, before_candidates, before_events

Rows = list[tuple[list[int], list[int]]]
AWKWARD: Rows = [
    ([], []),
    ([], [3]),
    ([NO_TIME, NO_TIME, 2, 2, 5], [5, 2, 3, 6, -1]),
    ([4], []),
    ([7, 7, 7], [7, 8]),
    ([], []),
]


def tensor(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def arguments(rows: Rows) -> list[torch.Tensor]:
    return [
        tensor([len(events) for events, _ in rows]),
        tensor([time for events, _ in rows for time in events]),
        tensor([len(candidates) for _, candidates in rows]),
        tensor([time for _, candidates in rows for time in candidates]),
    ]


def counted(earlier: list[int], moment: int) -> tuple[int, int, int]:
    """Events before, different times that are strictly earlier, and the newest event's."""
    different = {time for time in earlier if time < moment}
    return len(earlier), len(different), earlier[-1] if earlier else NO_TIME


def assert_is(before: Before, expected: list[tuple[int, int, int]]) -> None:
    assert list(zip(*(part.tolist() for part in before), strict=True)) == expected


def drawn(seed: int) -> Rows:
    draw = random.Random(seed)

    def times(num: int) -> list[int]:
        return [draw.randrange(6) for _ in range(draw.randrange(num))]

    return [(sorted(times(6)), times(5)) for _ in range(8)]


@pytest.mark.parametrize("rows", [AWKWARD, AWKWARD[:1], AWKWARD[3:4], *map(drawn, range(20))])
def test_it_is_what_is_counted(rows: Rows) -> None:
    given = arguments(rows)
    of_events = [counted(events[:i], time) for events, _ in rows for i, time in enumerate(events)]
    assert_is(before_events(*given[:2]), of_events)
    of_candidates = [
        counted([time for time in events if time < moment], moment)
        for events, moments in rows
        for moment in moments
    ]
    assert_is(before_candidates(*given), of_candidates)


def test_events_out_of_order_are_named() -> None:
    rows: Rows = [([1, 5], []), ([3, 2], [4])]
    with pytest.raises(ValueError, match="event 3 is earlier"):
        before_candidates(*arguments(rows))
    before_events(*arguments([([3], []), ([2], [])])[:2])
