"""Deduplication by two processes on few rows: what is compared and written."""

from __future__ import annotations

import pytest
import torch

from benchmarks.embeddings import deduplication
from benchmarks.embeddings.deduplication import ALL_STAGES, Plan, require_alike
from benchmarks.embeddings.tables import Reader, Tables
from benchmarks.embeddings.training_step import Case, draw_batch

CASE = Case("bags", (2, 30), 16, 8, 10)


def test_requests_made_unique_are_fewer_bytes() -> None:
    rows = deduplication.measure(Plan((CASE,), num_batches=1, num_rounds=1))
    assert len(rows) == 2 * len(ALL_STAGES)
    assert [row["name"] for row in rows[:2]] == ["dedup_bytes", "dedup_step"]
    assert rows[0]["case"] == rows[1]["case"]
    assert [rows[0]["case"][stage] for stage in ("requests", "owned")] == [True, True]
    saved = {
        (row["case"]["requests"], row["case"]["owned"]): row["ratio"]
        for row in rows
        if row["name"] == "dedup_bytes"
    }
    assert saved[False, False] == saved[False, True] == 1.0
    assert saved[True, True] == saved[True, False] > 2.0
    assert all(row["difference"] <= deduplication.LARGEST_DIFFERENCE for row in rows)


def test_results_that_deduplication_changes_are_found_out() -> None:
    kjt = draw_batch(CASE, 0)
    same = Reader(Tables("bags", 2, 8).stock(16))
    models = dict.fromkeys(ALL_STAGES, same)
    assert require_alike(models, kjt) == 0.0  # type: ignore[arg-type]
    torch.manual_seed(1)
    models[ALL_STAGES[-1]] = Reader(Tables("bags", 2, 8).stock(16))
    with pytest.raises(RuntimeError, match="with and without deduplication"):
        require_alike(models, kjt)  # type: ignore[arg-type]
