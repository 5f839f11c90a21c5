"""MTGR trained by the trainer on user windows, by one process and by two, to be compared."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

from tests.data.crossed_clicks import TEST_FROM, computed_features, crossed_schema
from tests.training.toy import sharded
from torchrec_gr.data.log_source import TRAIN, LogSource, TemporalSplit
from torchrec_gr.data.prepared_log import PreparedLog, prepare
from torchrec_gr.data.window_loader import WindowLoader
from torchrec_gr.models.mtgr import MTGRRanker
from torchrec_gr.models.mtgr_config import MTGRConfig
from torchrec_gr.training.checkpoint import read_weights
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.trainer import Trainer

CONFIG = MTGRConfig(
    dim=8,
    num_layers=2,
    num_heads=2,
    task_hidden=6,
    max_seq_len=60,
    init_std=0.5,
    position_bias=True,
)
FORMS: dict[str, dict[str, Any]] = {
    "whole": {},
    "pieces": {"micro_batches": 2},
    "dfgr in pieces": {"flow": "dfgr", "micro_batches": 3},
}
SCHEMA = crossed_schema(
    computed_features((("item",), ("user", "tag"))), labels=("click",), request_features=("hour",)
)
STOPPED_AFTER = 3


def open_log(folder: Path) -> PreparedLog:
    """The log whose rows lie in a folder; it is prepared once."""
    source = LogSource(
        schema=SCHEMA,
        rows=(folder / "rows.parquet",),
        split=TemporalSplit(validation_from=TEST_FROM, test_from=TEST_FROM),
    )
    return prepare(source, folder / "work")


def window_loader(log: PreparedLog, rank: int, world_size: int) -> WindowLoader:
    """Steps of a few user windows, which two ranks cannot share evenly."""
    return WindowLoader(
        log,
        TRAIN,
        batch_tokens=45,
        window_hours=12,
        max_candidates=5,
        stochastic_length=1.6,
        seed=5,
        rank=rank,
        world_size=world_size,
    )


def build_ranker(table_rows: dict[str, int], form: str) -> MTGRRanker:
    torch.manual_seed(0)
    return MTGRRanker(dataclasses.replace(CONFIG, **FORMS[form]), SCHEMA, table_rows, table_dim=4)


class Stopped(BaseException):
    """Ends a run as a signal would."""


def train(form: str, folder: Path, run: str, *, stop: bool = False) -> dict[str, Any]:
    """Trains what is left of two epochs.

    Args:
        form: of FORMS.
        folder: of the log.
        run: its folder's name; a run that was stopped goes on.
        stop: end it in the midst of the first epoch, a step after its last checkpoint.
    """

    def on_step(step: int, loss: float, rate: float) -> None:
        if stop and step + 1 == STOPPED_AFTER:
            raise Stopped

    log = open_log(folder)
    model, optimizers = sharded(build_ranker(log.table_rows, form), "row_wise")
    loader = window_loader(log, dist.get_rank(), dist.get_world_size())
    trainer = Trainer(
        model, optimizers, loader, run_dir=folder / run, checkpoint_steps=2, on_step=on_step
    )
    trainer.resume()
    first_step = trainer.global_step
    try:
        while len(trainer.finished) < 2:
            trainer.train_epoch()
    except Stopped:
        return {}
    return {
        "first_step": first_step,
        "losses": [epoch.mean_loss for epoch in trainer.finished],
        "examples": [epoch.num_examples for epoch in trainer.finished],
        "pipelined": pipelined_names(trainer),
        "weights": read_weights(folder / run),
    }


def pipelined_names(trainer: Trainer) -> list[str]:
    """The modules whose look-up of the next batch overlaps this one's computing."""
    pipelined = trainer._pipeline._pipelined_modules
    return [name for name, module in trainer.model.module.named_modules() if module in pipelined]


def run_in_two_processes(folder: Path) -> dict[str, Any]:
    """A run, one more that is stopped, and the rest of one that one process began."""
    multiprocessing.spawn(_run, args=(folder,), nprocs=2)
    return torch.load(folder / "results.pt", weights_only=False)


def _run(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    with process_group("cpu"):
        results = {"pieces": train("pieces", folder, "pieces by two")}
        results["went on"] = train("pieces", folder, "begun by one")
        train("pieces", folder, "begun by two", stop=True)
    if rank == 0:
        torch.save(results, folder / "results.pt")
    dist.barrier()
    dist.destroy_process_group()
