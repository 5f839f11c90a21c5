"""Quantised tables on few rows: what is compared and written."""

from __future__ import annotations

import copy

import pytest

from benchmarks.embeddings import quantised
from benchmarks.embeddings.quantised import Plan, draw_batch, require_near
from benchmarks.embeddings.tables import Reader, Tables

TINY = Plan(num_tables=2, num_rows=64, width=16, num_values=40, bag_size=5, seconds=0.0)


def test_every_table_and_look_up_has_time_memory_and_error() -> None:
    rows = quantised.measure(TINY)
    names = [f"int{bits}_{what}" for bits in (8, 4) for what in ("time", "memory", "error")]
    assert [row["name"] for row in rows[:6]] == names
    cases = [(row["case"]["tables"], row["case"]["look_up"]) for row in rows[::6]]
    assert cases == [
        (tables, look_up)
        for tables in ("static", "multi-hash", "dynamic")
        for look_up in ("bags", "sequences")
    ]
    for row in rows:
        if row["name"].endswith("memory"):
            assert row["ratio"] > 1.3  # few rows: fixed parts of a dynamic table weigh much
        if row["name"].endswith("error"):
            assert 0 < row["value"] < (0.01 if "8" in row["name"] else 0.15)


def test_tables_that_are_far_from_fp32_are_found_out() -> None:
    tables = Tables("bags", TINY.num_tables, TINY.width)
    exact = Reader(tables.stock(TINY.num_rows))
    kjt = draw_batch(TINY, tables.keys)
    with pytest.raises(RuntimeError, match=r"int8 is 0\.0e\+00 from fp32"):
        require_near(copy.deepcopy(exact), exact, kjt, 8)  # it is not quantised at all
    with pytest.raises(RuntimeError, match="int8 is"):
        require_near(Reader(tables.stock(TINY.num_rows)), exact, kjt, 8)
