"""Toy models of every kind of table, trained and saved by one process and by two."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import (
    ParameterShardingGenerator,
    column_wise,
    construct_module_sharding_plan,
    data_parallel,
    grid_shard,
    row_wise,
    table_row_wise,
    table_wise,
)
from torchrec.distributed.types import ShardingPlan

from tests.pretrained.artefact.artefact_toy import by_id, save, vocabularies
from tests.training.dynamic_toy import EndlessLog
from tests.training.toy import DIM, ToyLoader, ToyLog, sharded, toy_model
from torchrec_gr.embeddings.dynamic_table import dynamic_tables
from torchrec_gr.embeddings.table_rows import TableRows
from torchrec_gr.pretrained import PretrainedError
from torchrec_gr.pretrained.artefact import shard_files, written_parts
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.tables import table_of
from torchrec_gr.training.trainer import Trainer

TRAINED = [
    ("requests", "row_wise", "rowwise_adagrad"),
    ("requests", "table_wise", "rowwise_adagrad"),
    ("requests", "column_wise", "adagrad"),
    ("requests", "column_wise", "adamw"),
    ("requests", "row_wise", "adamw"),
    ("impressions", "row_wise", "rowwise_adagrad"),
    ("impressions", "column_wise", "sgd"),
    ("dynamic_requests", "row_wise", "rowwise_adagrad"),
    ("dynamic_impressions", "row_wise", "adagrad"),
    ("dynamic_requests", "row_wise", "sgd"),
]
"""View, sharding, optimizer; saved with the optimizer's state."""
PLACED: dict[str, ParameterShardingGenerator] = {
    "table_wise": table_wise(rank=0),
    "row_wise": row_wise(),
    "column_wise": column_wise(ranks=[0, 0]),
    "table_row_wise": table_row_wise(host_index=0),
    "grid_shard": grid_shard(host_indexes=[0]),
    "data_parallel": data_parallel(),
}
"""TorchRec's own placements of a bag; saved without an optimizer."""
UNSHARDED = ["requests", "impressions", "dynamic_requests"]
LONGEST, LARGEST = 5, 300
"""Rows of a piece and bytes of a file, so that small tables are many of each."""


def run_all(work_dir: Path) -> dict[str, dict[str, Any]]:
    """Saves every case, in small pieces and with what is expected of each."""
    small = mock.patch.object(written_parts, "LONGEST_PIECE", LONGEST)
    with small, mock.patch.object(shard_files, "LARGEST_FILE", LARGEST):
        expected = {"-".join(case): _trained(work_dir, *case) for case in TRAINED}
        expected |= {f"placed {kind}": _placed(work_dir, kind) for kind in PLACED}
        expected |= {f"unsharded {view}": _unsharded(work_dir, view) for view in UNSHARDED}
    return expected


def _trained(work_dir: Path, view: str, sharding: Any, optimizer: str) -> dict[str, Any]:
    model, optimizers = sharded(toy_model(view), sharding, optimizer)
    is_dynamic = view.startswith("dynamic")
    pad = view == "impressions"
    log = EndlessLog() if is_dynamic else ToyLog()
    Trainer(model, optimizers, ToyLoader(log, view.removeprefix("dynamic_"), pad=pad)).train_epoch()
    options = {"vocabularies": {}} if is_dynamic else {}
    folder = work_dir / "-".join((view, sharding, optimizer))
    save(folder, model, optimizer=optimizers, **options)
    return _expected(model, optimizers.state_dict()["state"], optimizer)


def _placed(work_dir: Path, kind: str) -> dict[str, Any]:
    model = toy_model("impressions")
    plan = construct_module_sharding_plan(
        model.sparse.bags,
        {"item": PLACED[kind], "user": PLACED["table_wise"]},
        device_type="cpu",
    )
    placed = DistributedModelParallel(
        model,
        device=torch.device("cpu"),
        plan=ShardingPlan({"sparse.bags": plan}),
        sharders=[EmbeddingBagCollectionSharder()],
    )
    save(work_dir / f"placed {kind}", placed)
    return _expected(placed, {}, "")


def _unsharded(work_dir: Path, view: str) -> dict[str, Any]:
    model = toy_model(view)
    if view.startswith("dynamic"):
        model(ToyLog().requests(range(30)))
    vocabularies_ = {"vocabularies": {}} if view.startswith("dynamic") else {}
    save(work_dir / f"unsharded {view}", model, **vocabularies_)
    return _expected(model, {}, "", shares=False)


def _expected(
    model: nn.Module, states: dict[str, Any], optimizer: str, *, shares: bool = True
) -> dict[str, Any]:
    """What `artefact_toy.contents` should find, put together the plain way."""
    found: dict[str, Any] = {}
    tables = dynamic_tables(model)
    for table in tables.values():
        parts: list[Any] = [table.rows()]
        if shares:
            parts *= dist.get_world_size()
            dist.all_gather_object(parts, table.rows())
        rows, name = TableRows.concatenated(parts), table.config.name
        found |= {f"{name} ids": rows.ids.tolist(), f"{name} counts": rows.seen[:, 0].long()}
        found |= {f"{name} weight": rows.weight, f"{name} seen": rows.seen}
        if optimizer.endswith("adagrad"):
            found[f"{name} optimizer"] = rows.optimizer
    for name, value in model.state_dict().items():
        if name.startswith(tuple(f"{path}." for path in tables)):
            continue
        table_name, state = table_of(name), states.get(name, {})
        if table_name is None:
            found[name] = value.detach().clone()
            found |= {f"{name} {key}": of.clone() for key, of in state.items()}
            continue
        vocabulary = vocabularies()[table_name]
        found[f"{table_name} weight"] = _whole(value)
        found[f"{table_name} ids"] = [None, *vocabulary.ids.to_pylist()]
        found[f"{table_name} counts"] = torch.from_numpy(vocabulary.counts)
        if optimizer.endswith("adagrad"):
            found[f"{table_name} optimizer"] = _whole(state.get(f"{table_name}.momentum1"))
    return by_id(found)


def _whole(value: Any) -> Tensor:
    """All of a state dict's entry, from all processes; None: this one has no part of it."""
    if isinstance(value, Tensor) and not hasattr(value, "local_shards"):
        return value.detach().clone()
    shards = [] if value is None else value.local_shards()
    mine = [(shard.metadata.shard_offsets, shard.tensor.detach()) for shard in shards]
    parts: list[Any] = [mine] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    places = [
        (tuple(slice(o, o + n) for o, n in zip(offsets, shard.shape, strict=True)), shard)
        for of in parts
        for offsets, shard in of
    ]
    ends = zip(*([along.stop for along in place] for place, _ in places), strict=True)
    whole = torch.full([max(end) for end in ends], float("nan"))
    for place, shard in places:
        whole[place] = shard
    assert not whole.isnan().any()
    return whole


def run_in_processes(work_dir: Path) -> dict[str, Any]:
    """`run_all` and `fail_together` by two processes, started once."""
    multiprocessing.spawn(_run_one, args=(work_dir,), nprocs=2)
    return torch.load(work_dir / "results.pt", weights_only=False)


def _run_one(rank: int, work_dir: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    store = dist.FileStore(str(work_dir / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    with process_group("cpu"):
        results = {"expected": run_all(work_dir), "errors": fail_together(work_dir)}
    if rank == 0:
        torch.save(results, work_dir / "results.pt")
    dist.barrier()
    dist.destroy_process_group()


def fail_together(work_dir: Path) -> list[list[str]]:
    """What each process says where only one has something wrong, over an earlier artefact."""
    model, _ = sharded(toy_model("requests", seed=7), "row_wise")
    folder = work_dir / "kept"
    save(folder, model)
    is_last = dist.get_rank() == dist.get_world_size() - 1
    few = {"item": vocabularies()["item"]}
    errors = [_error(lambda: save(folder, model, **({"vocabularies": few} if is_last else {})))]
    full = mock.patch.object(shard_files, "save_file", side_effect=OSError(28, "No space left"))
    if is_last:
        full.start()
    errors.append(_error(lambda: save(folder, model)))
    mock.patch.stopall()
    gathered: list[Any] = [errors] * dist.get_world_size()
    dist.all_gather_object(gathered, errors)
    return gathered


def _error(action: Any) -> str:
    try:
        action()
    except PretrainedError as error:
        return str(error)
    return "none"


assert DIM % 2 == 0  # its columns are split
