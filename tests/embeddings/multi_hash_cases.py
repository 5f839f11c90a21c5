"""Rankers over multi-hash tables, trained by one process and by two, to be compared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing, nn
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from tests.training.toy import DIM, ToyLoader, ToyLog, sharded, toy_model
from torchrec_gr.embeddings.multi_hash import (
    MultiHashEmbeddingBagCollection,
    MultiHashEmbeddingCollection,
)
from torchrec_gr.embeddings.multi_hash_config import (
    MultiHashEmbeddingBagConfig,
    MultiHashEmbeddingConfig,
)
from torchrec_gr.training.checkpoint import read_weights
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import Sharding
from torchrec_gr.training.trainer import Trainer

CASES: list[tuple[str, Sharding, str]] = [
    ("requests", "row_wise", "rowwise_adagrad"),
    ("requests", "table_wise", "adamw"),
    ("impressions", "table_wise", "rowwise_adagrad"),
    ("impressions", "row_wise", "sgd"),
]
_TABLES: list[dict[str, Any]] = [
    {"name": "item", "num_embeddings": 13, "feature_names": ["hist", "cand"]},
    {"name": "user", "num_embeddings": 5, "feature_names": ["user"], "seed": 1},
]


def multi_hash_model(view: str) -> nn.Module:
    """The toy ranker of a view, reading two-function tables."""
    model = toy_model(view)
    torch.manual_seed(1)
    shape = {"embedding_dim": DIM, "num_hashes": 2}
    if view == "requests":
        configs = [MultiHashEmbeddingConfig(**table, **shape) for table in _TABLES]
        model.embeddings = MultiHashEmbeddingCollection(configs)
    else:
        bags = [MultiHashEmbeddingBagConfig(**table, **shape) for table in _TABLES]
        model.sparse.bags = MultiHashEmbeddingBagCollection(bags)  # type: ignore[union-attr]
    return model


def train(view: str, sharding: Sharding, optimizer: str, work_dir: Path) -> dict[str, Any]:
    """Two epochs: losses and whole weights."""
    run_dir = work_dir / f"{view}-{sharding}-{optimizer}-{dist.get_world_size()}"
    model, optimizers = sharded(multi_hash_model(view), sharding, optimizer)
    loader = ToyLoader(ToyLog(), view, pad=sharding == "row_wise")
    trainer = Trainer(model, optimizers, loader, run_dir=run_dir)
    losses = [trainer.train_epoch().mean_loss for _ in range(2)]
    return {"losses": losses, "weights": read_weights(run_dir)}


def pipelined(view: str, postproc: bool) -> tuple[list[str], list[float]]:
    """Which collections a train pipeline takes over, and the losses of an epoch in it."""
    model, optimizer = sharded(multi_hash_model(view))
    losses: list[float] = []

    def forward(batch: Any) -> Any:
        loss, output = model(batch)
        losses.append(loss.item())
        return loss, output

    pipeline = TrainPipelineSparseDist(
        model,
        optimizer,
        torch.device("cpu"),
        custom_model_fwd=forward,
        pipeline_postproc=postproc,
    )
    optimizer.set_step(3)
    loader = ToyLoader(ToyLog(), view)
    batches = iter(loader)
    for _ in range(loader.num_steps):
        pipeline.progress(batches)
    return [module.forward.name for module in pipeline._pipelined_modules], losses


def train_all(work_dir: Path) -> dict[str, Any]:
    """The results of every case, by its name."""
    return {"-".join(case): train(*case, work_dir) for case in CASES}


def train_all_in_processes(world_size: int, work_dir: Path) -> dict[str, Any]:
    """`train_all` in a process group of its own."""
    multiprocessing.spawn(_train_one, args=(world_size, work_dir), nprocs=world_size)
    return torch.load(work_dir / "results.pt")


def _train_one(rank: int, world_size: int, work_dir: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size))
    store = dist.FileStore(str(work_dir / "store"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    with process_group("cpu"):
        results = train_all(work_dir)
    if rank == 0:
        torch.save(results, work_dir / "results.pt")
    dist.barrier()
    dist.destroy_process_group()
