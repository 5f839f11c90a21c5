"""What is frozen keeps every bit under every sharding type, and the others train as they would."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.training.freeze_cases import (
    BESIDE,
    CASES,
    TABLES,
    Case,
    run_all,
    run_all_in_processes,
    train_plainly,
)
from torchrec_gr.training.tables import table_of

Results = dict[Any, Any]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Results]]:
    """By the number of processes, of each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = run_all()
    torch.set_num_threads(threads)
    return {1: [one], 2: run_all_in_processes(2, tmp_path_factory.mktemp("freeze"))}


def _means(frozen: tuple[str, ...], key: str) -> bool:
    name = key.split(" ")[0]
    return (table_of(name) or name.split(".")[1]) in frozen


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_frozen_keeps_every_bit(
    case: Case, num_processes: int, results: dict[int, list[Results]]
) -> None:
    for result in results[num_processes]:
        names = {name for name in result[case.name]["weights"] if _means(case.frozen, name)}
        assert result[case.name]["frozen"] == names
        for key, kept in result[case.name]["kept"].items():
            if _means(case.frozen, key):
                assert kept, key
    moved = {
        key
        for result in results[num_processes]
        for key, kept in result[case.name]["kept"].items()
        if not kept
    }
    others = {name for name in results[1][0][case.name]["kept"] if not _means(case.frozen, name)}
    assert moved == others  # what is frozen, and nothing else: not for want of trying


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_training_is_that_of_plain_torch(
    case: Case, num_processes: int, results: dict[int, list[Results]]
) -> None:
    expected = train_plainly(case, num_processes)
    for result in results[num_processes]:
        actual = result[case.name]["weights"]
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("case", BESIDE, ids=lambda case: case.name)
def test_the_others_train_to_the_bits_that_they_would_beside_a_rate_of_0(
    case: Case, num_processes: int, results: dict[int, list[Results]]
) -> None:
    for result in results[num_processes]:
        ours, theirs = result[case.name, False], result[case.name, True]
        assert {key for key in theirs if " " not in key} == {key for key in ours if " " not in key}
        for key, value in theirs.items():
            assert torch.equal(ours[key], value), key


def test_the_cases_have_processes_whose_tables_are_all_frozen(
    results: dict[int, list[Results]],
) -> None:
    held = [
        {t for t in TABLES if len(part["bags-table_wise-adagrad-a", False][f"{_PATH}.{t}.weight"])}
        for part in results[2]
    ]
    assert held == [{"a", "d"}, {"b", "c"}]


_PATH = "tables.embedding_bags"
