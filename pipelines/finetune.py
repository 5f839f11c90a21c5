r"""Trains a ranker on the impressions of a log, from scratch or from a pretrained run.

    python -m pipelines.finetune --data kuairand-pure --data-dir DIR --model gpsd \
        --strategy sparse-freeze --pretrained runs/pretrain --out runs/finetune
    python -m pipelines.finetune --data kuairand-pure --data-dir DIR --model dlrm+pinfm \
        --strategy full-slow --pretrained runs/pinfm --out runs/dlrm-pinfm
    python -m pipelines.finetune --data custom --config later-day.yaml --model gpsd \
        --from runs/finetune --out runs/later-day

Stopped and started again with the same --out, it goes on where it was. `--from` goes on from an
earlier run with another log: ids that are new get rows, old ones keep theirs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from pipelines.configuration.command_line import parse, report_errors
from pipelines.configuration.model_name import parse_model
from pipelines.configuration.settings import Settings
from pipelines.configuration.variants import lay_over
from pipelines.evaluation.cold_rows import RowFacts, measure_groups
from pipelines.evaluation.diagnostic import Diagnostic
from pipelines.evaluation.split_metrics import SplitMetrics, measure, measure_further_labels
from pipelines.results.rows import write_atomically
from pipelines.stages.batch_norm import synchronised
from pipelines.stages.open_log import as_read, open_log
from pipelines.stages.rankers import Ranker, RankerBuilder, build_ranker
from pipelines.stages.reading import pad_for
from pipelines.stages.run_folder import describe_run, read_vocabularies
from pipelines.stages.transferring import FirstWeights
from torchrec_gr.data.loader import RequestLoader
from torchrec_gr.data.log_source import TEST, TRAIN
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.step_loader import StepLoader
from torchrec_gr.training.evaluation import Predictions
from torchrec_gr.training.freeze import frozen_names
from torchrec_gr.training.optimizer import Schedule, build_optimizer
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import shard
from torchrec_gr.training.strategy import Strategy, parameter_groups
from torchrec_gr.training.tables import table_of
from torchrec_gr.training.trainer import EpochProgress, OnStep, Trainer
from torchrec_gr.training.transfer_report import TransferReport

_ROWS_AT_ONCE = 4096
"""Rows of a batch that is read, not scored."""


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
class EpochResult:
    """What one epoch of a ranker came to.

    Args:
        epoch: 1 for the first.
        training: what it trained.
        seconds: of training up to its end, this stage alone.
        metrics: by split.
        further: of the test split, by the labels after the first; see `measure_further_labels`.
        predictions: of every split.
        diagnostic: of rows by how often their ids were seen in training; see `Diagnostic`.
        groups: of test rows with a cold item or without a history; see `measure_groups`.
        test_rows: what tells them apart.
        ranker: whose epoch it is.
    """

    epoch: int
    training: EpochProgress
    seconds: float
    metrics: dict[str, SplitMetrics]
    further: dict[str, float]
    predictions: dict[str, Predictions]
    diagnostic: dict[str, float]
    groups: dict[str, float]
    test_rows: RowFacts
    ranker: RankerFacts


def finetune(
    log: PreparedLog,
    settings: Settings,
    run_dir: Path,
    *,
    model: str,
    strategy: Strategy,
    dim: int,
    seed: int,
    device: torch.device,
    pretrained: Path | None = None,
    start: Path | None = None,
    build: RankerBuilder = build_ranker,
    on_epoch: Callable[[EpochResult], None],
    on_step: OnStep | None = None,
    on_transfer: Callable[[TransferReport], None] | None = None,
) -> None:
    """Trains a ranker and evaluates it after each epoch, or finishes what was begun in `run_dir`.

    Args:
        log: the impressions.
        settings: of the ranker's stage and sizes.
        run_dir: for checkpoints, schema and vocabularies.
        model: as `parse_model` takes it; its variant is laid over the settings.
        strategy: how the pretrained weights come in.
        dim: width of the tables.
        seed: of initial weights and order.
        device: where to train.
        pretrained: the pretraining run; None with strategy "none".
        start: an earlier ranker's run to start from, instead of `pretrained`.
        build: makes the ranker that `model` names.
        on_epoch: called after each epoch; again for the last one when a run is taken up.
        on_step: called after each step with its number, loss and learning rate.
        on_transfer: called with what came from earlier weights, on the first process.
    """
    name = parse_model(model, settings.variants)
    settings = lay_over(settings, name.variant)
    log = as_read(log, settings)
    first = FirstWeights(strategy, pretrained, start)
    ranker = build(name, log, settings, dim, seed, first)
    ranker = dataclasses.replace(ranker, module=synchronised(ranker.module, device))
    facts = RankerFacts.of(ranker.module)
    trainer = _trainer(ranker, strategy, log, settings, run_dir, seed, device, on_step)
    if dist.get_rank() == 0:
        words = {"model": model, "strategy": strategy, "dim": dim, "seed": seed}
        describe_run(run_dir, log, {"settings": settings, **words})
        ranker.moved.report.save(run_dir / "transfer.json")
        if on_transfer is not None:
            on_transfer(ranker.moved.report)
    evaluation = _Evaluation(log, settings, ranker, trainer, facts)
    trainer.resume()
    while True:
        if trainer.finished:
            on_epoch(evaluation.after_epoch())
        if len(trainer.finished) >= settings.epochs:
            return
        trainer.train_epoch()


class _Evaluation:
    """Measures a ranker between epochs."""

    def __init__(
        self,
        log: PreparedLog,
        settings: Settings,
        ranker: Ranker,
        trainer: Trainer,
        facts: RankerFacts,
    ) -> None:
        self._log, self._settings, self._ranker, self._trainer = log, settings, ranker, trainer
        self._facts = facts
        # Made once: a loader keeps what it has decoded.
        self._held_out = {split: self._loader(split) for split in log.splits if split != TRAIN}
        self._diagnostic = Diagnostic(log, self._loader)
        as_of = settings.history_as_of
        requests = RequestLoader(log, TEST, batch_size=_ROWS_AT_ONCE, history_as_of=as_of)
        self._test_rows = RowFacts.of(log, requests)

    def after_epoch(self) -> EpochResult:
        """Of the epoch that was trained last."""
        trainer = self._trainer
        scored = {split: trainer.evaluate(loader) for split, loader in self._held_out.items()}
        return EpochResult(
            epoch=len(trainer.finished),
            training=trainer.finished[-1],
            seconds=sum(progress.seconds for progress in trainer.finished),
            metrics={
                split: measure(self._log, predictions, self._settings.history_as_of)
                for split, predictions in scored.items()
            },
            further=measure_further_labels(self._log, scored[TEST]),
            predictions=scored,
            diagnostic=self._diagnostic.measure(trainer.evaluate, scored),
            groups=measure_groups(scored[TEST], self._test_rows),
            test_rows=self._test_rows,
            ranker=self._facts,
        )

    def _loader(self, split: str) -> StepLoader[Any]:
        as_of = self._settings.history_as_of
        loader = self._ranker.reading.to_score(self._log, split, as_of)
        pad_for(self._trainer.model, loader)
        return loader


def _trainer(
    ranker: Ranker,
    strategy: Strategy,
    log: PreparedLog,
    settings: Settings,
    run_dir: Path,
    seed: int,
    device: torch.device,
    on_step: OnStep | None,
) -> Trainer:
    stage = ranker.stage
    loader = ranker.reading.to_train(log, TRAIN, settings.history_as_of, seed)
    groups = parameter_groups(
        strategy,
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
        name=run_dir.name,
        on_step=on_step,
    )


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options, settings = parse("finetune", __doc__, arguments)

    def show(result: EpochResult) -> None:
        if dist.get_rank() != 0:
            return
        shown = ", ".join(
            f"{split} AUC {measured.auc:.4f} NE {measured.ne:.4f}"
            for split, measured in result.metrics.items()
        )
        print(f"epoch {result.epoch}: {shown}, {result.training.seconds:.0f} s", flush=True)
        metrics = {split: measured.to_dict() for split, measured in result.metrics.items()}
        written = {"epoch": result.epoch, "seconds": result.seconds, "metrics": metrics}
        path = options.out / "metrics" / f"epoch_{result.epoch}.json"
        write_atomically(path, json.dumps(written, indent=1).encode())

    with report_errors(), process_group(settings.device) as device:
        previous = read_vocabularies(options.start) if options.start else None
        log = open_log(settings, options.out / "data", previous)
        finetune(
            log,
            settings,
            options.out,
            model=options.model,
            strategy=options.strategy,
            dim=settings.dims[0],
            seed=options.seed,
            device=device,
            pretrained=options.pretrained,
            start=options.start,
            on_epoch=show,
            on_transfer=lambda report: print(report, flush=True),
        )


if __name__ == "__main__":
    main()
