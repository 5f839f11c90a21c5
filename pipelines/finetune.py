r"""Trains a ranker on the impressions of a log, from scratch or from a pretrained run.

    python -m pipelines.finetune --data kuairand-pure --data-dir DIR --model gpsd \
        --strategy sparse-freeze --pretrained runs/pretrain --out runs/finetune
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

import torch
import torch.distributed as dist
from torchrec.distributed.model_parallel import DistributedModelParallel

from pipelines.command_line import parse, report_errors
from pipelines.evaluation import SplitMetrics, measure
from pipelines.open_log import open_log
from pipelines.rankers import Ranker, build_ranker
from pipelines.results import write_atomically
from pipelines.run_folder import describe_run, read_vocabularies
from pipelines.settings import Settings
from torchrec_gr.data.loader import RequestLoader
from torchrec_gr.data.log_source import TRAIN
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.training.checkpoint import read_weights
from torchrec_gr.training.evaluation import Predictions
from torchrec_gr.training.optimizer import Schedule, TableOptimizer, build_optimizer
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import needs_equal_batches, shard
from torchrec_gr.training.tables import table_of
from torchrec_gr.training.trainer import EpochProgress, OnStep, Trainer
from torchrec_gr.training.transfer import Strategy, TransferReport, transfer


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """What one epoch of a ranker came to.

    Args:
        epoch: 1 for the first.
        training: what it trained.
        seconds: of training up to its end, this stage alone.
        metrics: by split.
        predictions: of every split.
        transfer: what was loaded, left and frozen.
        num_embedding, num_dense: parameters.
    """

    epoch: int
    training: EpochProgress
    seconds: float
    metrics: dict[str, SplitMetrics]
    predictions: dict[str, Predictions]
    transfer: TransferReport
    num_embedding: int
    num_dense: int


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
    on_epoch: Callable[[EpochResult], None],
    on_step: OnStep | None = None,
) -> None:
    """Trains a ranker and evaluates it after each epoch, or finishes what was begun in `run_dir`.

    Args:
        log: the impressions.
        settings: of the ranker's stage and sizes.
        run_dir: for checkpoints, schema and vocabularies.
        model: as `build_ranker` takes it.
        strategy: how the pretrained weights come in.
        dim: width of the tables.
        seed: of initial weights and order.
        device: where to train.
        pretrained: the pretraining run; None with strategy "none".
        start: an earlier ranker's run to start from, instead of `pretrained`.
        on_epoch: called after each epoch; again for the last one when a run is taken up.
        on_step: called after each step with its number, loss and learning rate.
    """
    ranker = build_ranker(model, log, settings, dim, seed)
    report = _load(ranker, strategy, pretrained, start)
    sizes = _num_parameters(ranker)
    tables = ranker.stage.tables_for(strategy)
    trainer = _trainer(ranker, tables, log, settings, run_dir, seed, device, on_step)
    if dist.get_rank() == 0:
        words = {"model": model, "strategy": strategy, "dim": dim, "seed": seed}
        describe_run(run_dir, log, {"settings": settings, **words})
        write_atomically(
            run_dir / "transfer.json", json.dumps(dataclasses.asdict(report), indent=1).encode()
        )
    # Made once: a loader keeps what it has decoded.
    held_out = {
        split: _evaluation_loader(log, split, ranker, settings, _pads(ranker, trainer.model))
        for split in log.splits
        if split != TRAIN
    }
    trainer.resume()
    while True:
        if trainer.finished:
            predictions = {split: trainer.evaluate(loader) for split, loader in held_out.items()}
            on_epoch(
                EpochResult(
                    epoch=len(trainer.finished),
                    training=trainer.finished[-1],
                    seconds=sum(progress.seconds for progress in trainer.finished),
                    metrics={
                        split: measure(log, scored, settings.history_as_of)
                        for split, scored in predictions.items()
                    },
                    predictions=predictions,
                    transfer=report,
                    num_embedding=sizes[0],
                    num_dense=sizes[1],
                )
            )
        if len(trainer.finished) >= settings.epochs:
            return
        trainer.train_epoch()


def _load(
    ranker: Ranker, strategy: Strategy, pretrained: Path | None, start: Path | None
) -> TransferReport:
    if start is not None:
        return transfer(ranker.module, read_weights(start), "full")
    if strategy == "none":
        return transfer(ranker.module, {}, "none")
    if pretrained is None:
        raise ValueError(
            f"strategy {strategy!r} needs a pretrained run: name one with --pretrained, or make "
            "one with python -m pipelines.pretrain"
        )
    return transfer(ranker.module, read_weights(pretrained), strategy)


def _trainer(
    ranker: Ranker,
    tables: TableOptimizer,
    log: PreparedLog,
    settings: Settings,
    run_dir: Path,
    seed: int,
    device: torch.device,
    on_step: OnStep | None,
) -> Trainer:
    stage = ranker.stage
    sharded = shard(
        ranker.module, device=device, table_optimizer=tables, sharding=settings.sharding
    )
    loader = RequestLoader(
        log,
        TRAIN,
        batch_size=stage.batch_size,
        view=ranker.view,
        history_as_of=settings.history_as_of,
        seed=seed,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        pad=_pads(ranker, sharded),
    )
    total = stage.cosine_epochs * loader.num_steps or None
    schedule = Schedule(stage.warmup_steps, total)
    return Trainer(
        sharded,
        build_optimizer(sharded, tables, stage.dense, schedule),
        loader,
        run_dir=run_dir,
        checkpoint_steps=settings.checkpoint_steps,
        bf16=settings.precision == "bf16",
        name=run_dir.name,
        on_step=on_step,
    )


def _evaluation_loader(
    log: PreparedLog, split: str, ranker: Ranker, settings: Settings, pad: bool
) -> RequestLoader:
    return RequestLoader(
        log,
        split,
        batch_size=max(ranker.stage.batch_size, 1024),
        view=ranker.view,
        history_as_of=settings.history_as_of,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        pad=pad,
    )


def _pads(ranker: Ranker, model: DistributedModelParallel) -> bool:
    return ranker.view == "impressions" and needs_equal_batches(model)


def _num_parameters(ranker: Ranker) -> tuple[int, int]:
    """Numbers in tables, and the others."""
    sizes = {True: 0, False: 0}
    for name, parameter in ranker.module.named_parameters():
        sizes[table_of(name) is not None] += parameter.numel()
    return sizes[True], sizes[False]


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
        earlier = options.start or options.pretrained
        log = open_log(
            settings, options.out / "data", read_vocabularies(earlier) if earlier else None
        )
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
        )


if __name__ == "__main__":
    main()
