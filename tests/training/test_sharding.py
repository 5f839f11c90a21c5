"""Sharding: weights keep their values, and what cannot work is refused."""

from __future__ import annotations

import gc
import weakref
from typing import Any, get_args

import pytest
import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from tests.training.toy import DIM, NUM_ITEMS, NUM_USERS, sharded, toy_model, whole
from torchrec_gr.training.freeze import freeze
from torchrec_gr.training.optimizer import TableOptimizer
from torchrec_gr.training.sharding import Sharding, needs_equal_batches, shard
from torchrec_gr.training.tables import table_collections, table_weights


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


class _Derived(EmbeddingBagCollection):
    pass


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
    for sharding in (None, "row_wise"):
        with pytest.raises(ValueError, match="no sharder takes a _Derived: expected one of"):
            sharded(_Derived(tables=[]), sharding)  # type: ignore[arg-type]
    model, _ = sharded(toy_model("requests"))
    with pytest.raises(ValueError, match="sharded already"):
        sharded(model)


def test_a_model_that_did_not_fit_can_be_sharded_with_another_optimizer(
    device: torch.device,
) -> None:
    model = toy_model("impressions")
    rows = NUM_ITEMS + NUM_USERS
    with pytest.raises(ValueError, match="table optimizer 'sgd'"):
        shard(
            model,
            device=device,
            table_optimizer=TableOptimizer("adagrad"),
            max_table_bytes=rows * DIM * 4,
        )
    after = shard(
        model,
        device=device,
        table_optimizer=TableOptimizer("sgd"),
        max_table_bytes=rows * DIM * 4,
    )
    assert all(not state for state in after.fused_optimizer.state_dict()["state"].values())


@pytest.mark.parametrize(
    ("view", "sharding", "equal"),
    [
        ("impressions", None, False),
        ("impressions", "row_wise", True),
        ("impressions", "column_wise", False),
        ("requests", "row_wise", False),
    ],
)
def test_row_wise_bags_need_equal_batches(view: str, sharding: Any, equal: bool) -> None:
    model, _ = sharded(toy_model(view), sharding, "sgd")
    assert needs_equal_batches(model) == equal


def test_memory_is_for_the_plan_that_nobody_gave(device: torch.device) -> None:
    for sharding, limit in (("row_wise", 1000), (None, 0)):
        with pytest.raises(ValueError, match=f"max_table_bytes={limit} with sharding={sharding!r}"):
            shard(
                toy_model("requests"),
                device=device,
                table_optimizer=TableOptimizer(),
                sharding=sharding,  # type: ignore[arg-type]
                max_table_bytes=limit,
            )


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd", "adamw"])
def test_the_unsharded_tables_are_let_go(optimizer: str) -> None:
    model = toy_model("requests")
    freeze(model, ["user"])
    unsharded = [weakref.ref(weight.untyped_storage()) for weight in table_weights(model).values()]
    after, _ = sharded(model, optimizer=optimizer)
    gc.collect()
    assert [storage() for storage in unsharded] == [None, None]
    assert after is not None
