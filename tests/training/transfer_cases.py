"""Transfers into models sharded in every way, run by one process and by two."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import (
    column_wise,
    construct_module_sharding_plan,
    data_parallel,
    grid_shard,
    row_wise,
    table_row_wise,
    table_wise,
)
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.embeddings.dynamic_collections import DynamicEmbeddingCollection
from torchrec_gr.embeddings.dynamic_config import DynamicEmbeddingConfig
from torchrec_gr.embeddings.dynamic_table import dynamic_tables
from torchrec_gr.embeddings.table_rows import TableRows
from torchrec_gr.training.optimizer import (
    DenseOptimizer,
    Schedule,
    TableOptimizer,
    build_optimizer,
    fuse_table_optimizer,
)
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharders import sharder_of, sharders
from torchrec_gr.training.source import RowPiece, TableInMemory, WeightsInMemory
from torchrec_gr.training.transfer import transfer
from torchrec_gr.training.transfer_plan import SAME_ROWS, TablePlan, TransferPlan

ROWS, DIM, SOURCE_ROWS = 37, 8, 50
TARGET_IDS = [None, *range(103, 103 + 3 * (ROWS - 1), 3)]
SOURCE_IDS = [None, *range(100, 100 + 2 * (SOURCE_ROWS - 1), 2)][::-1]
"""The null row is the last here, the first there; every second target id is known for a while."""


class Case(NamedTuple):
    """A transfer into a model of one table.

    Args:
        look_up: "bags" or "sequences".
        sharding: of the table.
        optimizer: of the table.
        source_dim: width of the source's rows; others than DIM are projected.
        ids: "integers", "strings", or "rows": row by row.
        unknown: as `TablePlan` has it.
        with_state: the optimizer's state comes along.
        num_rows: of the table.
    """

    look_up: str
    sharding: str
    optimizer: str = "adagrad"
    source_dim: int = DIM
    ids: str = "integers"
    unknown: str = "keep"
    with_state: bool = False
    num_rows: int = ROWS

    def __str__(self) -> str:
        return "-".join(map(str, self))


CASES = [
    *(Case("bags", s) for s in ("table_wise", "row_wise", "column_wise", "table_row_wise", "grid")),
    *(Case("bags", s) for s in ("table_column_wise",)),
    Case("bags", "data_parallel", "adamw"),
    *(Case("bags", s, "adamw") for s in ("table_wise", "row_wise", "column_wise")),
    *(Case("sequences", s) for s in ("table_wise", "row_wise", "column_wise")),
    *(Case("bags", s, source_dim=12) for s in ("row_wise", "column_wise")),
    *(Case("bags", s, source_dim=5) for s in ("table_wise", "column_wise")),
    *(Case("bags", s, unknown="mean") for s in ("row_wise", "column_wise")),
    *(Case("bags", s, unknown="hash") for s in ("row_wise", "column_wise")),
    Case("bags", "row_wise", ids="strings", unknown="hash"),
    Case("bags", "row_wise", ids="rows", num_rows=61),
    Case("sequences", "row_wise", num_rows=3, unknown="mean"),
    Case("bags", "row_wise", num_rows=4, source_dim=12, unknown="mean"),
    *(Case("bags", s, with_state=True) for s in ("table_wise", "row_wise", "column_wise", "grid")),
    *(Case("bags", s, "rowwise_adagrad", with_state=True) for s in ("table_wise", "row_wise")),
    Case("sequences", "row_wise", "rowwise_adagrad", ids="rows", num_rows=61, with_state=True),
]


def source_of(case: Case) -> WeightsInMemory:
    """Random rows, with a state that says which row it is of."""
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(SOURCE_ROWS, case.source_dim, generator=random)
    state = torch.rand(SOURCE_ROWS, case.source_dim, generator=random)
    if case.optimizer == "rowwise_adagrad":
        state = state[:, 0].contiguous()
    kept = {"state": state, "optimizer": case.optimizer} if case.optimizer != "adamw" else {}
    table = TableInMemory(weight, pa.array(ids_of(SOURCE_IDS, case)), **kept)  # type: ignore[arg-type]
    return WeightsInMemory("pretrained", {"goods": table})


def target_ids(case: Case) -> list[Any]:
    """What the target's rows stand for."""
    return ids_of(TARGET_IDS, case)[: case.num_rows]


def ids_of(ids: list[int | None], case: Case) -> list[Any]:
    """As integers or strings."""
    return ids if case.ids != "strings" else [i if i is None else f"id {i}" for i in ids]


def run(case: Case) -> dict[str, Any]:
    """Transfers into a new model; what it looks up afterwards for each row, and the report."""
    model, optimizer = _model(case)
    before = looked_up(model, case)
    source = source_of(case)
    plan = TablePlan(
        "goods",
        SAME_ROWS if case.ids == "rows" else target_ids(case),
        unknown=case.unknown,  # type: ignore[arg-type]
        projection="principal" if case.source_dim != DIM else "none",
        optimizer_state=case.with_state,
        counts=np.arange(case.num_rows),
    )
    report = transfer(source, model, TransferPlan({"item": plan}), optimizer=optimizer)
    states = optimizer.state_dict()["state"] if optimizer is not None else {}
    shards = [
        (shard.metadata.shard_offsets, shard.tensor.clone())
        for state in states.values()
        for name, value in state.items()
        if name.endswith("momentum1")
        for shard in value.local_shards()
    ]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, shards)
    return {
        "before": before,
        "after": looked_up(model, case),
        "state": [shard for part in gathered for shard in part],
        "report": report.to_json(),
    }


def looked_up(model: nn.Module, case: Case) -> Tensor:
    """[rows, DIM] what the model's own look-up reads, not what its state dict says."""
    kjt = KeyedJaggedTensor(
        keys=["item"],
        values=torch.arange(case.num_rows),
        lengths=torch.ones(case.num_rows, dtype=torch.int32),
    )
    with torch.no_grad():
        found = model(kjt)
        vectors = found["item"] if case.look_up == "bags" else found["item"].values()
    return vectors.detach().clone()


def _model(case: Case) -> tuple[DistributedModelParallel, Any]:
    torch.manual_seed(7)
    size = {"name": "item", "num_embeddings": case.num_rows, "embedding_dim": DIM}
    model: Any
    if case.look_up == "bags":
        model = EmbeddingBagCollection([EmbeddingBagConfig(feature_names=["item"], **size)])
    else:
        model = EmbeddingCollection([EmbeddingConfig(feature_names=["item"], **size)])
    tables = TableOptimizer(case.optimizer, lr=0.1)  # type: ignore[arg-type]
    for weight in model.parameters():
        fuse_table_optimizer(weight, tables)
    num = dist.get_world_size()
    ranks = list(range(num))
    way = {
        "table_wise": lambda: table_wise(rank=num - 1),
        "row_wise": row_wise,
        "column_wise": lambda: column_wise(ranks=ranks),
        "table_row_wise": lambda: table_row_wise(host_index=0),
        "table_column_wise": lambda: column_wise(ranks=[num - 1] * 2),
        "grid": lambda: grid_shard(host_indexes=[0]),
        "data_parallel": data_parallel,
    }[case.sharding]()
    plan = construct_module_sharding_plan(
        model,
        {"item": way},
        sharder=sharder_of(model),
        local_size=num,
        world_size=num,
        device_type="cpu",
    )
    for placed in plan.values():
        placed.compute_kernel = "dense" if case.optimizer == "adamw" else "fused"
    weights = model.state_dict()
    sharded = DistributedModelParallel(
        model, device=torch.device("cpu"), plan=ShardingPlan({"": plan}), sharders=sharders()
    )
    sharded.load_state_dict(weights)
    if case.sharding == "data_parallel":
        return sharded, None
    return sharded, build_optimizer(sharded, tables, DenseOptimizer(), Schedule())


class _Unreadable(TableInMemory):
    """Cannot be read to its end by the last process."""

    def pieces(self) -> Iterator[RowPiece]:
        (piece,) = super().pieces()
        yield RowPiece(0, piece.weight[:20])
        if dist.get_rank() == dist.get_world_size() - 1:
            raise OSError("the disk is gone")
        yield RowPiece(20, piece.weight[20:])


def run_failures() -> list[list[str]]:
    """What each process says of what goes wrong on one, or could be seen by one alone."""
    case = Case("bags", "row_wise")
    goods = source_of(case).tables["goods"]
    unreadable = WeightsInMemory("s", {"goods": _Unreadable(goods.weight, goods.ids)})
    twice = TablePlan("goods", [*TARGET_IDS[:-1], TARGET_IDS[1]])  # on two processes
    errors = []
    for source, model, plan in (
        (unreadable, _model(case)[0], TablePlan("goods", TARGET_IDS)),
        (unreadable, _dynamic_model("adagrad", None), TablePlan("goods")),
        (source_of(case), _model(case)[0], twice),
    ):
        before = looked_up(model, case) if plan is twice else None
        try:
            transfer(source, model, TransferPlan({"item": plan}))
            errors.append("none")
        except (OSError, ValueError) as error:
            errors.append(str(error))
        if before is not None:
            assert torch.equal(looked_up(model, case), before)
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, errors)
    return gathered


def _dynamic_model(optimizer: str, max_rows: int | None) -> DistributedModelParallel:
    torch.manual_seed(7)
    config = DynamicEmbeddingConfig(
        name="item", embedding_dim=DIM, feature_names=["item"], max_rows=max_rows
    )
    model = DynamicEmbeddingCollection([config])
    for weight in model.parameters():
        fuse_table_optimizer(weight, TableOptimizer(optimizer, lr=0.1))  # type: ignore[arg-type]
    return DistributedModelParallel(model, device=torch.device("cpu"), sharders=sharders())


def run_dynamic(optimizer: str = "adagrad", max_rows: int | None = None) -> dict[str, Tensor]:
    """Transfers into a sharded dynamic table that has rows already; all its rows, by id."""
    model = _dynamic_model(optimizer, max_rows)
    (table,) = dynamic_tables(model).values()
    ids = torch.tensor([1, 104, 2])[dist.get_rank() :: dist.get_world_size()]
    seen = torch.ones(len(ids), 2, dtype=torch.int32)
    rows = TableRows.empty(DIM, (len(ids), 0))
    table.load_rows(
        TableRows(**{**vars(rows), "ids": ids, "seen": seen, "weight": torch.ones(len(ids), DIM)})
    )
    table.step.fill_(5)
    source = source_of(Case("sequences", "row_wise", optimizer))
    counts = np.arange(SOURCE_ROWS) // 2
    goods = TableInMemory(
        **{**vars(source.tables["goods"]), "num_seen": counts}  # type: ignore[arg-type]
    )
    source = WeightsInMemory("pretrained", {"goods": goods})
    report = transfer(
        source, model, TransferPlan({"item": TablePlan("goods", optimizer_state=True)})
    )
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, table.rows())
    whole = TableRows.concatenated(gathered)
    order = whole.ids.argsort()
    fields = ("ids", "seen", "weight", "optimizer")
    return {**{f: getattr(whole, f)[order] for f in fields}, "report": report.to_json()}  # type: ignore[dict-item]


DYNAMIC = [("adagrad", None), ("rowwise_adagrad", None), ("adagrad", 20)]


def run_all(work_dir: Path) -> dict[str, Any]:
    """The results of every case."""
    results: dict[str, Any] = {str(case): run(case) for case in CASES}
    results |= {f"dynamic {args}": run_dynamic(*args) for args in DYNAMIC}
    return results | {"failures": run_failures()}


def run_all_in_processes(world_size: int, work_dir: Path) -> dict[str, Any]:
    """`run_all` in a process group of its own, started once."""
    multiprocessing.spawn(_run, args=(world_size, work_dir), nprocs=world_size)
    return torch.load(work_dir / "results.pt", weights_only=False)


def _run(rank: int, world_size: int, work_dir: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size))
    store = dist.FileStore(str(work_dir / "store"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    with process_group("cpu"):
        results = run_all(work_dir)
    if rank == 0:
        torch.save(results, work_dir / "results.pt")
    dist.barrier()
    dist.destroy_process_group()
