"""A table that grows by few rows, and the memory that a process takes."""

from __future__ import annotations

import mmap

import pytest

from benchmarks.embeddings import growth
from benchmarks.embeddings.growth import Plan, grow, peak_bytes, reset_peak_bytes

TINY = Plan(first_rows=2_000, last_rows=5_000, batch_size=700, width=8)


def test_peak_is_what_was_resident_at_most_since_it_was_reset() -> None:
    resident = reset_peak_bytes()
    assert peak_bytes() - resident < 1 << 20
    with mmap.mmap(-1, 1 << 25) as fresh:  # the heap may have as much to spare, resident already
        for at in range(0, len(fresh), mmap.PAGESIZE):
            fresh[at] = 1
    assert peak_bytes() - resident == pytest.approx(1 << 25, rel=0.05)
    resident = reset_peak_bytes()
    assert peak_bytes() - resident < 1 << 20


def test_a_table_grows_to_its_last_row() -> None:
    grown = grow(TINY, num_threads=1)
    assert grown.row_bytes == 5_000 * (8 + 1) * 4
    assert grown.num_rows == 5_000
    assert 0 < grown.median <= grown.longest


def test_rows_of_a_process_of_its_own() -> None:
    rows = {row["name"]: row for row in growth.measure(TINY)}
    assert set(rows) == {"growth_pause_seconds", "growth_median_step_seconds", "growth_peak_memory"}
    for row in rows.values():
        assert set(row) == {"name", "case", "value"}
        assert row["value"] > 0
