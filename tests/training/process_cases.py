"""What is run by one process and by two, to be compared."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor

from tests.training.toy import ToyLoader, ToyLog, sharded, toy_model
from torchrec_gr.training.checkpoint import read_weights
from torchrec_gr.training.freeze import freeze
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import Sharding
from torchrec_gr.training.trainer import Trainer

Case = Callable[[Path], dict[str, Any]]


def _trainer(view: str, sharding: Sharding, optimizer: str, run_dir: Path, frozen: str) -> Trainer:
    model = toy_model(view)
    if frozen:
        freeze(model, [frozen])
    sharded_model, optimizers = sharded(model, sharding, optimizer)
    loader = ToyLoader(ToyLog(), view, pad=_pads(view, sharding))
    return Trainer(sharded_model, optimizers, loader, run_dir=run_dir)


def _pads(view: str, sharding: Sharding) -> bool:
    """TorchRec's EmbeddingBagCollection, row-wise, needs as many rows on every process."""
    return view == "impressions" and sharding == "row_wise"


def train(
    view: str, sharding: Sharding, optimizer: str, frozen: str, work_dir: Path
) -> dict[str, Any]:
    """Trains: losses, scores of another log, whole weights."""
    run_dir = work_dir / f"{view}-{sharding}-{optimizer}-{frozen}-{dist.get_world_size()}"
    trainer = _trainer(view, sharding, optimizer, run_dir, frozen)
    epochs = [trainer.train_epoch() for _ in range(1 if frozen else 2)]
    pad = _pads(view, sharding)
    predictions = trainer.evaluate(ToyLoader(ToyLog(seed=1), view, seed=None, pad=pad))
    return {
        "losses": [epoch.mean_loss for epoch in epochs],
        "examples": [epoch.num_examples for epoch in epochs],
        "loss": predictions.loss,
        "logits": torch.from_numpy(predictions.logits),
        "labels": torch.from_numpy(predictions.labels),
        "source_rows": torch.from_numpy(predictions.source_rows),
        "user_ids": torch.from_numpy(predictions.user_ids),
        "weights": by_id(read_weights(run_dir)),
    }


def by_id(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows of dynamic tables, which each number of processes keeps in another order, by id."""
    ids = {
        name.removesuffix("ids"): ids.argsort()
        for name, ids in weights.items()
        if name.endswith(".ids")
    }
    orders = {prefix + field: order for prefix, order in ids.items() for field in ("ids", "weight")}
    return {name: w[orders[name]] if name in orders else w for name, w in weights.items()}


def go_on(view: str, sharding: Sharding, optimizer: str, saved_by: int, work_dir: Path) -> float:
    """Takes up what `train` saved at a number of processes, and trains an epoch more."""
    run_dir = work_dir / f"{view}-{sharding}-{optimizer}--{saved_by}"
    trainer = _trainer(view, sharding, optimizer, run_dir, "")
    assert trainer.resume()
    return trainer.train_epoch().mean_loss


_TRAINED: list[tuple[str, Sharding, str]] = [
    ("requests", "row_wise", "rowwise_adagrad"),
    ("requests", "table_wise", "rowwise_adagrad"),
    ("requests", "column_wise", "adagrad"),
    ("requests", "row_wise", "adamw"),
    ("requests", "column_wise", "adamw"),
    ("requests", "table_wise", "adamw"),
    ("impressions", "table_wise", "rowwise_adagrad"),
    ("impressions", "row_wise", "rowwise_adagrad"),
    ("impressions", "column_wise", "sgd"),
    ("impressions", "row_wise", "adamw"),
    ("dynamic_requests", "row_wise", "rowwise_adagrad"),
    ("dynamic_impressions", "row_wise", "adagrad"),
]
TRAINED: dict[str, Case] = {
    "-".join(settings): partial(train, *settings, "") for settings in _TRAINED
}
_FROZEN: list[tuple[str, Sharding, str]] = [
    (view, sharding, optimizer)
    for view in ("requests", "impressions")
    for sharding, optimizer in (
        ("table_wise", "rowwise_adagrad"),
        ("row_wise", "rowwise_adagrad"),
        ("column_wise", "adagrad"),
        ("row_wise", "adamw"),
    )
]
FROZEN: dict[str, Case] = {
    "-".join(settings): partial(train, *settings, "item") for settings in _FROZEN
}
RESUMED: list[tuple[str, Sharding, str]] = [
    ("requests", "row_wise", "rowwise_adagrad"),
    ("requests", "table_wise", "adamw"),
    ("dynamic_requests", "row_wise", "rowwise_adagrad"),
]


def run_all(work_dir: Path) -> dict[str, Any]:
    """The results of every case, by its name."""
    results: dict[str, Any] = {}
    results |= {f"trained {name}": case(work_dir) for name, case in TRAINED.items()}
    results |= {f"frozen {name}": case(work_dir) for name, case in FROZEN.items()}
    return results


def run_all_in_processes(world_size: int, work_dir: Path) -> dict[str, Any]:
    """`run_all` in a process group of its own, started once."""
    multiprocessing.spawn(_run_one, args=(world_size, work_dir), nprocs=world_size)
    return torch.load(work_dir / "results.pt", weights_only=False)


def _run_one(rank: int, world_size: int, work_dir: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size))
    store = dist.FileStore(str(work_dir / "store"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    with process_group("cpu"):
        results = run_all(work_dir)
        results |= {f"resumed {names}": go_on(*names, 1, work_dir) for names in RESUMED}
    if rank == 0:
        torch.save(results, work_dir / "results.pt")
    dist.barrier()
    dist.destroy_process_group()
