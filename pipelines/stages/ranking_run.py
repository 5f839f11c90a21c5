"""A ranker ready to train: built, sharded, with its optimizer, its batches and its folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from pipelines.configuration.model_name import parse_model
from pipelines.configuration.settings import Settings
from pipelines.configuration.variants import lay_over
from pipelines.stages.batch_norm import synchronised
from pipelines.stages.open_log import as_read
from pipelines.stages.rankers import Ranker, RankerBuilder, build_ranker
from pipelines.stages.reading import pad_for
from pipelines.stages.run_folder import describe_run
from pipelines.stages.transferring import FirstWeights
from torchrec_gr.data.log_source import TRAIN
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.step_loader import StepLoader
from torchrec_gr.training.freeze import frozen_names
from torchrec_gr.training.limit import Limit
from torchrec_gr.training.optimizer import Schedule, build_optimizer
from torchrec_gr.training.sharding import shard
from torchrec_gr.training.strategy import parameter_groups
from torchrec_gr.training.tables import table_of
from torchrec_gr.training.trainer import OnStep, Trainer
from torchrec_gr.training.transfer_report import TransferReport


@dataclasses.dataclass(frozen=True)
class RankerFacts:
    """What stays the same from epoch to epoch.

    Args:
        frozen: tables, and parameters that are none, that never train.
        num_embedding, num_dense: numbers in tables, and the others.
    """

    frozen: tuple[str, ...]
    num_embedding: int
    num_dense: int

    @classmethod
    def of(cls, module: nn.Module) -> RankerFacts:
        """Of a ranker that is not sharded yet."""
        sizes = {True: 0, False: 0}
        for name, parameter in module.named_parameters():
            sizes[table_of(name) is not None] += parameter.numel()
        frozen = sorted(table_of(name) or name for name in frozen_names(module))
        return cls(tuple(frozen), sizes[True], sizes[False])


@dataclasses.dataclass(frozen=True)
class RankingRun:
    """A ranker in training.

    Args:
        log, settings: as the ranker reads them, a variant's laid over.
        ranker: what is trained; its module is the trainer's, sharded.
        facts: of the ranker.
        trainer: at the beginning, or where an earlier start ended once it is resumed.
    """

    log: PreparedLog
    settings: Settings
    ranker: Ranker
    facts: RankerFacts
    trainer: Trainer

    def to_score(self, split: str) -> StepLoader[Any]:
        """The batches of a split in the log's order, as the ranker reads them."""
        loader = self.ranker.reading.to_score(self.log, split, self.settings.history_as_of)
        pad_for(self.trainer.model, loader)
        return loader


def start_ranking(
    log: PreparedLog,
    settings: Settings,
    run_dir: Path | None,
    *,
    model: str,
    dim: int,
    seed: int,
    device: torch.device,
    first: FirstWeights,
    limit: Limit | None = None,
    build: RankerBuilder = build_ranker,
    on_step: OnStep | None = None,
    on_transfer: Callable[[TransferReport], None] | None = None,
) -> RankingRun:
    """Makes a ranker ready to train on the log's training split.

    Args:
        log: the impressions.
        settings: of the ranker's stage and sizes.
        run_dir: for checkpoints, schema and vocabularies; None writes nothing.
        model: as `parse_model` takes it; its variant is laid over the settings.
        dim: width of the tables.
        seed: of initial weights and order.
        device: where to train.
        first: earlier weights, and how they come in.
        limit: see `Trainer`.
        build: makes the ranker that `model` names.
        on_step: called after each step with its number, loss and learning rate.
        on_transfer: called with what came from earlier weights, on the first process.
    """
    name = parse_model(model, settings.variants)
    settings = lay_over(settings, name.variant)
    log = as_read(log, settings)
    ranker = build(name, log, settings, dim, seed, first)
    ranker = dataclasses.replace(ranker, module=synchronised(ranker.module, device))
    facts = RankerFacts.of(ranker.module)
    trainer = _trainer(ranker, first, log, settings, run_dir, seed, device, limit, on_step)
    if run_dir is not None and dist.get_rank() == 0:
        words = {"model": model, "strategy": first.strategy, "dim": dim, "seed": seed}
        describe_run(run_dir, log, {"settings": settings, **words})
        ranker.moved.report.save(run_dir / "transfer.json")
        if on_transfer is not None:
            on_transfer(ranker.moved.report)
    return RankingRun(log, settings, ranker, facts, trainer)


def _trainer(
    ranker: Ranker,
    first: FirstWeights,
    log: PreparedLog,
    settings: Settings,
    run_dir: Path | None,
    seed: int,
    device: torch.device,
    limit: Limit | None,
    on_step: OnStep | None,
) -> Trainer:
    stage = ranker.stage
    loader = ranker.reading.to_train(log, TRAIN, settings.history_as_of, seed)
    groups = parameter_groups(
        first.strategy,
        ranker.moved.tables,
        ranker.moved.dense,
        thaw_after=settings.thaw_epochs * loader.num_steps,
        table_scale=stage.transferred_scale,
    )
    sharded = shard(
        ranker.module,
        device=device,
        table_optimizer=stage.tables,
        sharding=settings.sharding,
        groups=groups,
    )
    pad_for(sharded, loader)
    schedule = Schedule(stage.warmup_steps, stage.cosine_epochs * loader.num_steps or None)
    return Trainer(
        sharded,
        build_optimizer(sharded, stage.tables, stage.dense, schedule, groups),
        loader,
        run_dir=run_dir,
        checkpoint_steps=settings.checkpoint_steps,
        bf16=settings.precision == "bf16",
        name=run_dir.name if run_dir is not None else "train",
        on_step=on_step,
        limit=limit,
    )
