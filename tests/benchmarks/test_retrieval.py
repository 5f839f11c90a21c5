"""The retrieval benchmark: what it measures, and that no time stands beside a wrong result."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import retrieval
from benchmarks.retrieval import Case, Way, answer, draw, measure

TINY = (Case("ranks", 5, 300, 7, dim=4), Case("top_k", 3, 300, 7, dim=4))


@pytest.fixture
def in_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is measured in this process: a new one takes seconds to start."""

    def call(function: Callable[[Case, Way], int], *given: object) -> int:
        return function(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(retrieval, "in_own_process", call)


def test_the_full_matrix_gives_what_sorting_gives() -> None:
    for case in TINY:
        asked = draw(case)
        found = answer(case, "full matrix", asked)
        for row in range(case.num_queries):
            target = int(asked.targets[row])
            left_out = set(asked.seen_values[asked.seen_offsets[row] :][: case.num_seen].tolist())
            of_row = (asked.vectors @ asked.queries[row]).tolist()
            better = sorted((s for i, s in enumerate(of_row) if i not in left_out), reverse=True)
            if case.work == "ranks":
                assert found[row] == 1 + sum(score > of_row[target] for score in better)
            else:
                torch.testing.assert_close(found[row], torch.tensor(better[: retrieval.TOP]))


def test_a_way_that_computes_another_thing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_ranks", lambda asked: asked.targets + 1)
    with pytest.raises(RuntimeError, match="results differ by"):
        measure(TINY, 0.0)


def test_the_catalogues_sizes_are_measured() -> None:
    assert [case.name for case in retrieval.FULL] == ["ranks_6040_3416", "top_k_1000_1000000"]


@pytest.mark.usefixtures("in_here")
def test_figures_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(retrieval, "QUICK", TINY)
    threads = str(torch.get_num_threads())
    path = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["x", "--quick", "--json", str(path), "--threads", threads])
    retrieval.main()
    rows = json.loads(path.read_text())["rows"]
    assert [row["name"] for row in rows] == [
        "ranks_5_300",
        *["ranks_5_300_peak_bytes"] * 2,
        "top_k_3_300",
        *["top_k_3_300_peak_bytes"] * 2,
    ]
    assert rows[0]["ratio"] == rows[0]["other"] / rows[0]["ours"] > 0
    assert rows[0]["difference"] == 0
    assert {row["case"]["way"] for row in rows if "value" in row} == set(retrieval.WAYS)
    assert "full matrix" in capsys.readouterr().out
