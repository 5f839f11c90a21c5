"""One process and two train to the same numbers; frozen tables do not move on either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.process_cases import (
    FROZEN,
    RESUMED,
    TRAINED,
    go_on,
    run_all,
    run_all_in_processes,
)
from tests.training.toy import toy_model
from torchrec_gr.training.sharding import Sharding
from torchrec_gr.training.tables import table_of

Results = dict[str, Any]


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def by_one(work_dir: Path) -> Results:
    return run_all(work_dir)


@pytest.fixture(scope="module")
def by_two(work_dir: Path, by_one: Results) -> Results:
    return run_all_in_processes(2, work_dir)


@pytest.mark.parametrize("name", TRAINED)
def test_two_processes_train_to_the_numbers_of_one(
    name: str, by_one: Results, by_two: Results
) -> None:
    one, two = by_one[f"trained {name}"], by_two[f"trained {name}"]
    assert one["losses"][1] < one["losses"][0]
    assert one["examples"] == two["examples"]
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_table_keeps_every_bit_and_the_others_move(
    name: str, by_one: Results, by_two: Results
) -> None:
    before = toy_model(name.split("-")[0]).state_dict()
    for results in (by_one, by_two):
        after = results[f"frozen {name}"]["weights"]
        assert after.keys() == before.keys()
        for key, weight in after.items():
            assert torch.equal(weight, before[key]) == (table_of(key) == "item"), key


@pytest.mark.parametrize("names", RESUMED)
def test_one_process_goes_on_from_two_as_two_do_from_one(
    names: tuple[str, Sharding, str], by_two: Results, work_dir: Path
) -> None:
    assert go_on(*names, 2, work_dir) == pytest.approx(by_two[f"resumed {names}"], rel=1e-5)
