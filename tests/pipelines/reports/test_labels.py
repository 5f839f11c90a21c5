"""Words in a figure: none upon another, none outside, as near as may be."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.reports.labels import Box, at_line_ends, beside_points

FRAME = Box(0, 0, 240, 200)
PLACES = st.lists(st.tuples(st.floats(0, 240), st.floats(0, 200)), max_size=15)


@given(PLACES)
def test_words_lie_free_and_within(points: list[tuple[float, float]]) -> None:
    boxes = beside_points(points, [(40.0, 10.0)] * len(points), FRAME)
    placed = [box for box in boxes if box is not None]
    assert all(FRAME.holds(box) for box in placed)
    assert not any(a.touches(b) for a, b in itertools.combinations(placed, 2))
    for box in placed:
        assert not any(box.left < x < box.right and box.bottom < y < box.top for x, y in points)


def test_a_lone_point_has_its_words_to_the_right_or_the_left_at_the_edge() -> None:
    (box,) = beside_points([(50, 50)], [(40, 10)], FRAME)
    assert box == Box(56, 45, 96, 55)
    (box,) = beside_points([(230, 50)], [(40, 10)], FRAME)
    assert box is not None
    assert box.right < 230


def test_words_keep_off_lines_and_are_left_out_where_nothing_is_free() -> None:
    line = [(x, 50) for x in range(0, 240, 2)]
    (box,) = beside_points([(50, 50)], [(40, 10)], FRAME, line)
    assert box is not None
    assert not box.bottom < 50 < box.top
    assert beside_points([(5, 5)], [(40, 10)], Box(0, 0, 20, 20)) == [None]


@given(st.lists(st.floats(0, 100), max_size=12))
def test_line_ends_keep_their_order_and_distance(heights: list[float]) -> None:
    places = at_line_ends(heights, 8.0, 0.0, 100.0)
    by_height = [places[i] for i in sorted(range(len(heights)), key=lambda i: heights[i])]
    assert all(b - a >= 8.0 - 1e-9 for a, b in itertools.pairwise(by_height))
    assert all(-1e-9 <= place <= 100.0 + 1e-9 for place in places)


def test_line_ends_move_only_where_they_must() -> None:
    assert at_line_ends([50.0, 10.0], 8.0, 0.0, 100.0) == [50.0, 10.0]
    assert at_line_ends([50.0, 50.0], 8.0, 0.0, 100.0) == pytest.approx([46.0, 54.0])
    assert at_line_ends([100.0, 99.0], 8.0, 0.0, 100.0) == pytest.approx([100.0, 92.0])
