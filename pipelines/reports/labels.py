"""Where words go in a figure: beside points or line ends, none upon another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle in points (1/72 inch)."""

    left: float
    bottom: float
    right: float
    top: float

    def touches(self, other: Box) -> bool:
        """Whether the two have any area in common."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )

    def holds(self, other: Box) -> bool:
        """Whether the other lies within."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.bottom <= other.bottom
            and other.top <= self.top
        )


def beside_points(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    frame: Box,
    obstacles: Sequence[tuple[float, float]] = (),
) -> list[Box | None]:
    """A place for each point's words, the nearest that is free: right of it first.

    Args:
        points: [N] places of the points.
        sizes: [N] width and height of the words.
        frame: that no word may leave.
        obstacles: further places that no word may cover.

    Returns:
        [N] boxes; None where no place is free.
    """
    taken = [Box(x - 2, y - 2, x + 2, y + 2) for x, y in (*points, *obstacles)]
    boxes: list[Box | None] = []
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        found = next(
            (
                box
                for box in _around(x, y, width, height)
                if frame.holds(box) and not any(box.touches(other) for other in taken)
            ),
            None,
        )
        boxes.append(found)
        if found is not None:
            taken.append(found)
    return boxes


def at_line_ends(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights near the given ones, in the same order and `gap` apart, moved as little as may be.

    Args:
        heights: [N] where the lines end.
        gap: between two words.
        low: of the lowest word.
        high: of the highest; with more words than fit they go below `low`.

    Returns:
        [N] heights.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    blocks: list[tuple[float, int]] = []  # where a block of words begins, and how many it has
    for i in order:
        blocks.append((heights[i], 1))
        while len(blocks) > 1 and blocks[-1][0] < blocks[-2][0] + gap * blocks[-2][1]:
            (first, n), (second, m) = blocks[-2:]
            blocks[-2:] = [((first * n + (second - gap * n) * m) / (n + m), n + m)]
    places = [start + gap * k for start, n in blocks for k in range(n)]
    for k in range(len(places)):
        places[k] = max(places[k], low + gap * k)
    for k in range(len(places)):
        places[-1 - k] = min(places[-1 - k], high - gap * k)
    moved = dict(zip(order, places, strict=True))
    return [moved[i] for i in range(len(heights))]


def _around(x: float, y: float, width: float, height: float) -> list[Box]:
    """Boxes about a point: at its sides, above and below, then a little further up and down."""
    boxes = []
    for step in (0.0, 0.9, -0.9, 1.7, -1.7):
        lefts = (x + 6, x - 6 - width) if step == 0.0 else (x + 4, x - 4 - width, x - width / 2)
        for left in lefts:
            bottom = y - height / 2 + step * height
            boxes.append(Box(left, bottom, left + width, bottom + height))
    return boxes
