"""Transfers into models sharded in every way hold what a dict from raw id to row says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from tests.training.transfer_cases import (
    CASES,
    DIM,
    DYNAMIC,
    SOURCE_IDS,
    SOURCE_ROWS,
    Case,
    ids_of,
    run_all,
    run_all_in_processes,
    source_of,
    target_ids,
)
from torchrec_gr.training.raw_ids import hashed

Results = dict[str, Any]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Results]:
    """By one process, and by two."""
    work_dir = tmp_path_factory.mktemp("processes")
    return run_all(work_dir), run_all_in_processes(2, work_dir)


def _source_rows(case: Case) -> list[int | None]:
    """The source row of each target row, by the plainest means; None: it knows the id not."""
    if case.ids == "rows":
        return [row if row < SOURCE_ROWS else None for row in range(case.num_rows)]
    row_of = {raw_id: row for row, raw_id in enumerate(ids_of(SOURCE_IDS, case))}
    return [row_of.get(raw_id) for raw_id in target_ids(case)]


def _in_target_width(case: Case, weight: Tensor) -> Tensor:
    if case.source_dim <= DIM:
        return torch.cat([weight, weight.new_zeros(len(weight), DIM - case.source_dim)], dim=1)
    *_, directions = torch.linalg.svd(weight.double(), full_matrices=False)
    kept = directions[:DIM].T
    return (weight.double() @ (kept * kept.gather(0, kept.abs().argmax(0)[None]).sign())).float()


def _expected(case: Case, before: Tensor) -> Tensor:
    rows = _in_target_width(case, source_of(case).tables["goods"].weight)
    after = before.clone()
    known = [row for row in range(SOURCE_ROWS) if SOURCE_IDS[row] is not None]
    for target, source in enumerate(_source_rows(case)):
        if source is not None:
            after[target] = rows[source]
        elif case.unknown == "mean":
            after[target] = rows.mean(0)
        elif case.unknown == "hash":
            (place,) = hashed(pa.array([target_ids(case)[target]]).cast(_type(case)), len(known))
            after[target] = rows[known[place]]
    return after


def _type(case: Case) -> pa.DataType:
    return pa.large_string() if case.ids == "strings" else pa.int64()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_look_up_reads_what_was_transferred(
    case: Case, results: tuple[Results, Results]
) -> None:
    for found in (by[str(case)] for by in results):
        expected = _expected(case, found["before"])
        if case.source_dim <= DIM and case.unknown != "mean":
            assert torch.equal(found["after"], expected)
        torch.testing.assert_close(found["after"], expected, rtol=1e-5, atol=1e-5)
        assert not torch.equal(found["after"], found["before"])


@pytest.mark.parametrize("case", [case for case in CASES if case.with_state], ids=str)
def test_the_state_moves_with_its_row(case: Case, results: tuple[Results, Results]) -> None:
    given = source_of(case).tables["goods"].state
    assert given is not None
    shape = (case.num_rows, *given.shape[1:])
    expected = torch.zeros(shape)
    for target, source in enumerate(_source_rows(case)):
        if source is not None:
            expected[target] = given[source]
    for found in (by[str(case)] for by in results):
        whole = torch.full(shape, torch.nan)
        for offsets, shard in found["state"]:
            whole[tuple(map(slice, offsets, np.add(offsets, shard.shape)))] = shard
        assert torch.equal(whole, expected)
        assert whole.any()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_numbers_are_of_the_whole_table(case: Case, results: tuple[Results, Results]) -> None:
    reports = [by[str(case)]["report"] for by in results]
    assert reports[0] == reports[1]
    report = json.loads(reports[0])
    sources = _source_rows(case)
    found = [row for row, source in enumerate(sources) if source is not None]
    assert report["tables"] == [
        {
            "table": "item",
            "source": "goods",
            "rows": case.num_rows,
            "found": len(found),
            "traffic": sum(found) / sum(range(case.num_rows)),
            "unknown": case.num_rows - len(found),
            "unknown_got": case.unknown,
            "unused": SOURCE_ROWS - len(found),
            "share": len(found) / case.num_rows,
        }
    ]
    assert [entry["status"] for entry in report["parameters"]] == ["resized"]


@pytest.mark.parametrize("args", DYNAMIC, ids=str)
def test_a_dynamic_table_gets_a_row_for_each_id(
    args: tuple[str, int | None], results: tuple[Results, Results]
) -> None:
    optimizer, max_rows = args
    table = source_of(Case("sequences", "row_wise", optimizer)).tables["goods"]
    assert table.state is not None
    of = {raw_id: row for row, raw_id in enumerate(SOURCE_IDS) if raw_id is not None}
    ids = sorted(of, key=lambda raw_id: (raw_id != 104, -(of[raw_id] // 2), raw_id))
    if max_rows is not None:
        ids = ids[: max_rows - 2]  # 1 and 2 are there already, and 104
    ids.sort()
    rows = [of[raw_id] for raw_id in ids]
    for found in (by[f"dynamic {args}"] for by in results):
        assert found["ids"].tolist() == [1, 2, *ids]
        assert torch.equal(found["weight"], torch.cat([torch.ones(2, DIM), table.weight[rows]]))
        assert found["seen"].tolist() == [[1, 1]] * 2 + [[max(1, row // 2), 5] for row in rows]
        assert torch.equal(found["optimizer"][2:], table.state[rows])
        assert not found["optimizer"][:2].any()
        report = json.loads(found["report"])
        (entry,) = report["tables"]
        assert (entry["rows"], entry["found"]) == (len(ids) + 2, len(ids))
        assert entry["unused"] == SOURCE_ROWS - len(ids)
        (parameter,) = report["parameters"]
        assert ("31 ids stayed behind" in parameter["note"]) == (max_rows is not None)


def test_what_one_process_sees_all_processes_say(results: tuple[Results, Results]) -> None:
    for by in results:
        for static, dynamic, twice in by["failures"]:
            assert static == dynamic == "the disk is gone"
            assert twice == by["failures"][0][2]
            assert "table 'item': an id stands for more than one row, such as 103" in twice
