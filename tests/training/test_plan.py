"""Plans: what fits keeps its default, what does not is split, and nothing is forgotten."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import PlannerError
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from torchrec_gr.training.optimizer import TableOptimizer, fuse_table_optimizer
from torchrec_gr.training.plan import _num_column_shards, _owners, plan_tables
from torchrec_gr.training.sharders import RowWiseBagSharder
from torchrec_gr.training.table_bytes import bytes_each, row_bytes
from torchrec_gr.training.tables import table_weights

CPU, META = torch.device("cpu"), torch.device("meta")


def _bags(rows: dict[str, int], dim: int = 4) -> EmbeddingBagCollection:
    return EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=name, num_embeddings=num, embedding_dim=dim, feature_names=[name]
            )
            for name, num in rows.items()
        ],
        device=META,
    )


def _sequences(rows: dict[str, int], dim: int = 4) -> EmbeddingCollection:
    return EmbeddingCollection(
        tables=[
            EmbeddingConfig(name=name, num_embeddings=num, embedding_dim=dim, feature_names=[name])
            for name, num in rows.items()
        ],
        device=META,
    )


def _model(bags: dict[str, int], sequences: dict[str, int], optimizer: str = "sgd") -> nn.Module:
    parts = ([_bags(bags)] if bags else []) + ([_sequences(sequences)] if sequences else [])
    model = nn.ModuleList(parts)
    for weight in table_weights(model).values():
        fuse_table_optimizer(weight, TableOptimizer(name=optimizer))  # type: ignore[arg-type]
    return model


def _placed(model: nn.Module, **options: Any) -> dict[str, Any]:
    plan = plan_tables(model, device=CPU, **options).plan
    return {table: placed for module in plan.values() for table, placed in module.items()}


def _held(model: nn.Module, placed: dict[str, Any]) -> Counter[int]:
    """The bytes of each process; each table's rows are there, each once."""
    held: Counter[int] = Counter()
    weights = table_weights(model)
    assert placed.keys() == weights.keys()
    for table, where in placed.items():
        next_row = 0
        for shard, rank in zip(where.sharding_spec.shards, where.ranks, strict=True):
            assert shard.placement.rank() == rank
            assert shard.shard_offsets == [min(next_row, weights[table].shape[0]), 0]
            assert shard.shard_sizes[1] == weights[table].shape[1]
            next_row += shard.shard_sizes[0]
            held[rank] += shard.shard_sizes[0] * row_bytes(weights[table])
        assert next_row == weights[table].shape[0]
    return held


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.get_world_size", lambda *_: 2)


@pytest.mark.usefixtures("two_processes")
def test_what_fits_is_row_wise_for_sequences_and_dealt_out_whole_for_bags() -> None:
    rows = {"a": 3, "b": 10, "c": 4, "d": 4}
    placed = _placed(_model(rows, {"s": 8, "t": 2}), max_table_bytes=10**6)
    kinds = {table: where.sharding_type for table, where in placed.items()}
    assert kinds == dict.fromkeys("abcd", "table_wise") | dict.fromkeys("st", "row_wise")
    assert {table: placed[table].ranks for table in rows} == {
        "a": [1],
        "b": [0],
        "c": [1],
        "d": [1],
    }
    assert {table: [rank] for table, rank in _owners(rows).items()} == {
        table: placed[table].ranks for table in rows
    }


@pytest.mark.usefixtures("two_processes")
def test_the_default_is_the_memory_of_the_machine() -> None:
    placed = _placed(_model({"a": 3, "b": 10}, {}))
    assert {where.sharding_type for where in placed.values()} == {"table_wise"}
    with pytest.raises(ValueError, match="do not fit into memory"):
        _placed(_model({"a": 10**12}, {}))


@pytest.mark.usefixtures("two_processes")
@pytest.mark.parametrize(
    ("limit", "split"),
    [
        (1600, set()),  # 16 bytes a row: a takes 1600, b 320, c 80
        (1599, {"a"}),
        (1120, {"a"}),  # half of a, and b
        (1119, {"a", "b"}),
        (1040, {"a", "b"}),  # halves of a and b, and c
        (1039, {"a", "b", "c"}),
        (1008, {"a", "b", "c"}),
    ],
)
def test_the_largest_are_split_as_memory_asks(limit: int, split: set[str]) -> None:
    model = _model({"c": 5, "a": 100, "b": 20}, {})
    placed = _placed(model, max_table_bytes=limit)
    assert {t for t, where in placed.items() if where.sharding_type == "row_wise"} == split
    assert max(_held(model, placed).values()) <= limit


_ROWS = st.dictionaries(st.sampled_from("abcdefg"), st.integers(1, 200), max_size=7)


@settings(max_examples=60, deadline=None)
@given(_ROWS, _ROWS, st.integers(1, 5), st.integers(1, 20_000), st.sampled_from(["sgd", "adagrad"]))
def test_a_plan_holds_every_row_once_within_its_limit_or_none_is_possible(
    bags: dict[str, int], sequences: dict[str, int], processes: int, limit: int, optimizer: str
) -> None:
    sequences = {f"s{name}": rows for name, rows in sequences.items()} or {"s": 3}
    model = _model(bags, sequences, optimizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.distributed.get_world_size", lambda *_: processes)
        if bytes_each(table_weights(model), processes) > limit:
            with pytest.raises(ValueError, match="do not fit into memory"):
                _placed(model, max_table_bytes=limit)
            return
        placed = _placed(model, max_table_bytes=limit)
        assert _placed(model, max_table_bytes=limit) == placed
    held = _held(model, placed)
    assert max(held.values()) <= limit
    assert set(held) <= set(range(processes))


def test_the_state_of_the_optimizer_counts() -> None:
    _placed(_model({"a": 10}, {}, "sgd"), max_table_bytes=160)
    _placed(_model({"a": 10}, {}, "rowwise_adagrad"), max_table_bytes=200)
    _placed(_model({"a": 10}, {}, "adagrad"), max_table_bytes=320)
    for optimizer, limit in (("sgd", 159), ("rowwise_adagrad", 199), ("adagrad", 319)):
        with pytest.raises(ValueError, match="are missing"):
            _placed(_model({"a": 10}, {}, optimizer), max_table_bytes=limit)


def test_a_table_without_a_fused_optimizer_has_the_dense_kernel() -> None:
    model = _model({"a": 10}, {}, "adamw")
    fuse_table_optimizer(table_weights(model)["a"], TableOptimizer("adamw"))
    assert _placed(model, max_table_bytes=640)["a"].compute_kernel == "dense"
    assert _placed(_model({"a": 10}, {}), max_table_bytes=640)["a"].compute_kernel == "fused"


@pytest.mark.usefixtures("two_processes")
def test_on_gpus_the_memory_of_each_counts() -> None:
    model = _model({"a": 100, "b": 20}, {"s": 10})
    plan = plan_tables(model, device=torch.device("cuda"), max_table_bytes=1_600).plan
    placed = {table: where for module in plan.values() for table, where in module.items()}
    kinds = {table: where.sharding_type for table, where in placed.items()}
    assert kinds == {"a": "row_wise", "b": "table_wise", "s": "row_wise"}
    assert {where.compute_kernel for where in placed.values()} == {"fused"}
    assert max(_held(model, placed).values()) <= 1_600
    shards = placed["a"].sharding_spec.shards
    assert [str(shard.placement) for shard in shards] == ["rank:0/cuda:0", "rank:1/cuda:1"]


@pytest.mark.usefixtures("two_processes")
def test_split_bags_are_told_with_what_they_need(caplog: pytest.LogCaptureFixture) -> None:
    _placed(_model({"a": 100, "b": 20}, {"s": 10}), max_table_bytes=10_000)
    assert not caplog.records
    _placed(_model({"a": 100, "b": 20}, {"s": 10}), max_table_bytes=1_600)
    (record,) = caplog.records
    assert "tables ['a'] are sharded row-wise" in record.getMessage()
    assert "RequestLoader(..., pad=True)" in record.getMessage()


def test_any_planner_splits_a_table_on_cpu_with_the_opened_sharder() -> None:
    bags = EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name="a", num_embeddings=10**9, embedding_dim=16, feature_names=["a"]
            )
        ],
        device=META,
    )
    topology = Topology(world_size=4, compute_device="cpu", hbm_cap=0, ddr_cap=20 * 10**9)
    plan = EmbeddingShardingPlanner(topology).plan(bags, [RowWiseBagSharder()])
    assert plan.plan[""]["a"].sharding_type == "row_wise"
    with pytest.raises(PlannerError):
        EmbeddingShardingPlanner(topology).plan(bags, [EmbeddingBagCollectionSharder()])


def test_large_tables_are_dealt_to_the_least_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.get_world_size", lambda *_: 2)
    assert _owners({"a": 3, "b": 10, "c": 4, "d": 4}) == {"b": 0, "c": 1, "d": 1, "a": 1}


def test_columns_are_cut_into_shards_that_fbgemm_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.get_world_size", lambda *_: 4)
    assert [_num_column_shards(dim) for dim in (4, 8, 10, 12, 16, 64)] == [1, 2, 1, 3, 4, 4]
