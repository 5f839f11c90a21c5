"""Sharding: weights keep their values, and what cannot work is refused."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import nn

from tests.training.toy import sharded, toy_model, whole
from torchrec_gr.training.sharding import Sharding, _num_column_shards, _owners
from torchrec_gr.training.tables import table_collections


@pytest.mark.parametrize("view", ["requests", "impressions"])
@pytest.mark.parametrize("sharding", [None, *get_args(Sharding)])
@pytest.mark.parametrize("optimizer", ["adagrad", "adamw"])
def test_weights_keep_their_values(view: str, sharding: Any, optimizer: str) -> None:
    before = toy_model(view).state_dict()
    after, _ = sharded(toy_model(view), sharding, optimizer)
    assert after.state_dict().keys() == before.keys()
    for name, value in after.state_dict().items():
        assert torch.equal(whole(value), before[name])


def test_the_default_is_row_wise_for_sequences_and_table_wise_for_bags() -> None:
    for view, path, kind in (
        ("requests", "embeddings", "row_wise"),
        ("impressions", "sparse.bags", "table_wise"),
    ):
        model, _ = sharded(toy_model(view))
        plan = model.plan.plan[path]
        assert {placed.sharding_type for placed in plan.values()} == {kind}


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="column_wise sharding does not fit rowwise_adagrad"):
        sharded(toy_model("requests"), "column_wise", "rowwise_adagrad")
    with pytest.raises(ValueError, match="unknown sharding 'rows'"):
        sharded(toy_model("requests"), "rows")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no table to shard"):
        sharded(nn.Linear(2, 2))
    twice = nn.ModuleList([toy_model("requests"), toy_model("impressions")])
    with pytest.raises(ValueError, match=r"\['item', 'user'\] are in more than one"):
        table_collections(twice)
    model, _ = sharded(toy_model("requests"))
    with pytest.raises(ValueError, match="sharded already"):
        sharded(model)


def test_large_tables_are_dealt_to_the_least_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    assert _owners({"a": 3, "b": 10, "c": 4, "d": 4}) == {"b": 0, "c": 1, "d": 1, "a": 1}


def test_columns_are_cut_into_shards_that_fbgemm_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 4)
    assert [_num_column_shards(dim) for dim in (4, 8, 10, 12, 16, 64)] == [1, 2, 1, 3, 4, 4]
