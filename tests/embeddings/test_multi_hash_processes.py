"""Models over multi-hash tables: one process and two train to the same numbers, in a pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.embeddings.multi_hash_cases import (
    CASES,
    multi_hash_model,
    pipelined,
    train_all,
    train_all_in_processes,
)
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.tables import table_of


def test_two_processes_train_to_the_numbers_of_one(tmp_path: Path) -> None:
    with process_group("cpu"):
        by_one = train_all(tmp_path)
    by_two = train_all_in_processes(2, tmp_path)
    assert by_one.keys() == {"-".join(case) for case in CASES}
    for name, one in by_one.items():
        before = multi_hash_model(name.split("-")[0]).state_dict()
        assert one["losses"][1] < one["losses"][0]
        assert one["weights"].keys() == before.keys()
        for key, weight in one["weights"].items():
            assert not torch.equal(weight, before[key]), f"{name}: {key} did not move"
        torch.testing.assert_close(
            one, by_two[name], rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize(
    ("view", "path"), [("requests", "embeddings"), ("impressions", "sparse.bags")]
)
def test_the_sub_tables_are_pipelined_where_hashing_may_be(view: str, path: str) -> None:
    with process_group("cpu"):
        names, losses = pipelined(view, postproc=True)
        unpipelined_names, unpipelined_losses = pipelined(view, postproc=False)
    assert names == [f"{path}.sub_tables"]
    assert unpipelined_names == []
    assert losses == unpipelined_losses


def test_sub_tables_are_named_as_tables_are() -> None:
    names = multi_hash_model("requests").state_dict()
    assert {table_of(name) for name in names} == {
        "item_hash0",
        "item_hash1",
        "user_hash0",
        "user_hash1",
        None,
    }
    assert "embeddings.sub_tables.embeddings.item_hash1.weight" in names
