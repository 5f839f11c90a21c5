"""The order in which an epoch reads: windows of blocks, and the seeds of everything drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

WINDOW_ROWS = 1 << 20
"""Rows that are permuted together, and so held in memory together."""

BLOCKS, ROWS, SEQUENCES, NEGATIVES, SHIFTS, LENGTHS, EVENTS = range(7)
"""What a generator is for: no two purposes share a stream."""


def generator(purpose: int, seed: int, epoch: int, place: int = 0) -> np.random.Generator:
    """The random stream of one purpose at one place of one epoch; the same on every rank."""
    return np.random.default_rng([purpose, seed, epoch, place])


@dataclasses.dataclass(frozen=True)
class Window:
    """Blocks whose rows are read together.

    Args:
        place: which window of the epoch this is.
        blocks: which blocks of the log, in the log's order.
        first: place of the window's first row in the epoch.
        num_rows: rows of the split in these blocks.
    """

    place: int
    blocks: tuple[int, ...]
    first: int
    num_rows: int


def windows(counts: Sequence[int], seed: int | None, epoch: int, window_rows: int) -> list[Window]:
    """Groups the blocks that have rows into windows: in an order drawn by a seed, or the log's.

    Args:
        counts: rows of the split in each block of the log.
        seed: of the order; None for the log's.
        epoch: each has an order of its own.
        window_rows: a window is closed once it holds this many rows.
    """
    order = np.flatnonzero(np.asarray(counts, np.int64))
    if seed is not None:
        order = generator(BLOCKS, seed, epoch).permutation(order)
    found: list[Window] = []
    blocks: list[int] = []
    first = num_rows = 0
    for block in order.tolist():
        blocks.append(block)
        num_rows += counts[block]
        if num_rows >= window_rows or block == order[-1]:
            found.append(Window(len(found), tuple(sorted(blocks)), first, num_rows))
            first, blocks, num_rows = first + num_rows, [], 0
    return found
