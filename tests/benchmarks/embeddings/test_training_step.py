"""A training step on few rows: both kinds of table learn the same."""

from __future__ import annotations

import pytest
import torch

from benchmarks.embeddings import training_step
from benchmarks.embeddings.training_step import Case, Plan
from benchmarks.measure import Row

TINY = Plan((Case("bags", (1, 3), 64, 8, 10), Case("sequences", (2, 1), 64, 8, 10)), seconds=0.0)


def test_each_case_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Row] = training_step.measure(TINY)
    assert [row["name"] for row in rows] == ["dynamic_step_vs_static"] * 2
    assert [row["case"]["look_up"] for row in rows] == ["bags", "sequences"]
    for row in rows:
        assert row["value"] == pytest.approx(row["ours"] / row["other"])
        assert row["difference"] <= training_step.LARGEST_DIFFERENCE
    assert "times as long" in capsys.readouterr().out


def test_tables_that_learn_another_thing_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = training_step.stock_reader
    monkeypatch.setattr(
        training_step,
        "stock_reader",
        lambda case, rows: right(case, [torch.zeros_like(part) for part in rows]),
    )
    with pytest.raises(RuntimeError, match="after training, rows differ"):
        training_step.measure(TINY)
