"""Training of a next-item recommender, with an evaluation every so many epochs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from pipelines.recommending.evaluation import HeldOutRanks, rank_held_out
from pipelines.recommending.models import build_recommender, hstu_config
from pipelines.recommending.settings import NextItemSettings
from torchrec_gr.data.held_out_loader import HeldOutLoader
from torchrec_gr.data.log_source import TEST, TRAIN, VALIDATION
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.sequence_loader import SequenceLoader
from torchrec_gr.training.optimizer import Schedule, build_optimizer
from torchrec_gr.training.sharding import shard
from torchrec_gr.training.trainer import EpochProgress, Trainer

_USERS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A recommender after some epochs.

    Args:
        epoch: how many.
        loss: mean training loss of the last of them.
        seconds: spent in training steps, in all.
        ranks: of the held-out items.
    """

    epoch: int
    loss: float
    seconds: float
    ranks: HeldOutRanks


def train_next_item(
    log: PreparedLog,
    settings: NextItemSettings,
    *,
    seed: int,
    run_dir: Path,
    device: torch.device,
    evaluated: Collection[int],
    on_evaluated: Callable[[Evaluated], None],
) -> None:
    """Trains a recommender, or finishes what was begun in `run_dir`.

    Args:
        log: whose events are read.
        settings: of model and training.
        seed: of initial weights, order and negatives.
        run_dir: for checkpoints.
        device: where to train.
        evaluated: epochs whose evaluation is known and not repeated.
        on_evaluated: is given every other one, on all processes.

    Raises:
        ValueError: settings that cannot be, or a log that does not fit them.
    """
    held_out = held_out_loader(log, settings)
    model = build_recommender(settings, log, seed)
    trainer = next_item_trainer(model, log, settings, seed=seed, run_dir=run_dir, device=device)
    bf16 = settings.precision == "bf16"
    trainer.resume()
    while True:
        epoch, every = trainer.progress.epoch, settings.evaluate_every
        due = epoch > 0 and (epoch % every == 0 or epoch == settings.epochs)
        if due and epoch not in evaluated and trainer.progress.step == 0:
            ranks = rank_held_out(trainer.detach(), held_out, device, bf16=bf16)
            seconds = sum(finished.seconds for finished in trainer.finished)
            loss = trainer.finished[-1].mean_loss
            on_evaluated(Evaluated(epoch, loss, seconds, ranks))
        if epoch >= settings.epochs:
            return
        print_epoch(run_dir.name, trainer.train_epoch(), settings.epochs)


def next_item_trainer(
    model: nn.Module,
    log: PreparedLog,
    settings: NextItemSettings,
    *,
    seed: int,
    run_dir: Path,
    device: torch.device,
) -> Trainer:
    """A trainer of a recommender on the log, before its first step.

    Args:
        model: on the CPU, as `build_recommender` gives it.
        log: whose events are read.
        settings: of training.
        seed: of order and negatives.
        run_dir: for checkpoints.
        device: where to train.

    Raises:
        ValueError: settings that cannot be, or a log that does not fit them.
    """
    loader = _training_loader(log, settings, seed)
    sharded = shard(
        model, device=device, table_optimizer=settings.tables, sharding=settings.sharding
    )
    return Trainer(
        sharded,
        build_optimizer(sharded, settings.tables, settings.dense, Schedule(settings.warmup_steps)),
        loader,
        run_dir=run_dir,
        checkpoint_steps=settings.checkpoint_steps,
        bf16=settings.precision == "bf16",
        name=run_dir.name,
    )


def held_out_loader(log: PreparedLog, settings: NextItemSettings) -> HeldOutLoader:
    """The events that a run predicts."""
    return HeldOutLoader(
        log,
        TEST if settings.held_out == "test" else VALIDATION,
        batch_size=_USERS_AT_ONCE,
        max_history=hstu_config(settings, log.schema).max_history,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
    )


def _training_loader(log: PreparedLog, settings: NextItemSettings, seed: int) -> SequenceLoader:
    splits = (TRAIN, VALIDATION) if settings.held_out == "test" else (TRAIN,)
    return SequenceLoader(
        log,
        batch_size=settings.batch_size,
        num_negatives=settings.pool,
        seed=seed,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        splits=tuple(split for split in splits if split in log.splits),
        segment_length=hstu_config(settings, log.schema).max_history + 1,
        stochastic_length=settings.stochastic_length,
    )


def print_epoch(name: str, progress: EpochProgress, num_epochs: int) -> None:
    """Says, on one process, what an epoch of so many trained."""
    if dist.get_rank() == 0:
        print(
            f"{name}: epoch {progress.epoch + 1} of {num_epochs}, loss {progress.mean_loss:.4f}, "
            f"{progress.seconds:.0f} s",
            flush=True,
        )
