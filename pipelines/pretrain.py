r"""Generative pretraining of the sparse tables and a sequence module on user histories.

    python -m pipelines.pretrain --data kuairand-pure --data-dir DIR --out runs/pretrain
    python -m pipelines.pretrain --data kuairand-pure --data-dir DIR --module pinfm \
        --out runs/pinfm
    python -m pipelines.pretrain --data custom --config later-day.yaml --from runs/pretrain \
        --out runs/later-day

Stopped and started again with the same --out, it goes on where it was. `--from` goes on from an
earlier run with another log: ids that are new get rows, old ones keep theirs. The finished run has
a folder `artefact` that stands on its own: see docs/api/artefact.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipelines.configuration.command_line import parse, report_errors
from pipelines.configuration.config import to_plain
from pipelines.configuration.model_name import Module
from pipelines.configuration.settings import PretrainUsers, Settings
from pipelines.stages.open_log import open_log
from pipelines.stages.pretrainers import build_pretrainer, readable_splits
from pipelines.stages.run_folder import describe_run, read_vocabularies
from pipelines.stages.transferring import move_weights, open_weights
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.pretrained import ARTEFACT, ModelCard, has_artefact, save_pretrained
from torchrec_gr.training.limit import Limit
from torchrec_gr.training.optimizer import Schedule, build_optimizer
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import shard
from torchrec_gr.training.trainer import EpochProgress, OnStep, Trainer


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A finished pretraining.

    Args:
        run_dir: its folder.
        seconds: spent in its training steps.
        num_examples: sequences that it trained on.
    """

    run_dir: Path
    seconds: float
    num_examples: int


def pretrain(
    log: PreparedLog,
    settings: Settings,
    run_dir: Path,
    *,
    dim: int,
    seed: int,
    users: PretrainUsers,
    device: torch.device,
    module: Module = "gpsd",
    start: Path | None = None,
    limit: Limit | None = None,
    on_step: OnStep | None = None,
) -> Pretrained:
    """Pretrains, or finishes what was begun in `run_dir`; leaves an artefact in its `artefact`.

    Args:
        log: the histories.
        settings: of the module's stage and sizes.
        run_dir: for checkpoints, schema and vocabularies.
        dim: width of tables and transformer.
        seed: of initial weights, order and negatives.
        users: whose histories; see `Settings.pretrain_users`.
        device: where to train.
        module: which.
        start: an earlier run to start from.
        limit: ends it before its last epoch; see `Trainer`.
        on_step: called after each step with its number, loss and learning rate.
    """
    pretrainer = build_pretrainer(module, log, settings, dim, seed, users)
    model, loader, stage = pretrainer.model, pretrainer.loader, pretrainer.stage
    if start is not None:
        move_weights(model, open_weights(start), "full", log.vocabularies)
    sharded = shard(model, device=device, table_optimizer=stage.tables, sharding=settings.sharding)
    schedule = Schedule(stage.warmup_steps, loader.num_steps * stage.epochs)
    trainer = Trainer(
        sharded,
        build_optimizer(sharded, stage.tables, stage.dense, schedule),
        loader,
        run_dir=run_dir,
        checkpoint_steps=settings.checkpoint_steps,
        bf16=settings.precision == "bf16",
        name=f"pretrain {run_dir.name}",
        on_step=on_step,
        limit=limit,
    )
    if dist.get_rank() == 0:
        words = {"settings": settings, "module": module, "dim": dim, "seed": seed}
        describe_run(run_dir, log, words)
    trainer.resume()
    while trainer.progress.epoch < stage.epochs and not trainer.exhausted:
        progress = trainer.train_epoch()
        if dist.get_rank() == 0:
            print(
                f"{run_dir.name}: epoch {progress.epoch + 1} of {stage.epochs}, "
                f"loss {progress.mean_loss:.4f}, {progress.seconds:.0f} s",
                flush=True,
            )
    if not has_artefact(run_dir):
        save_pretrained(
            run_dir / ARTEFACT,
            sharded,
            module=module,
            config=pretrainer.config,
            schema=log.schema,
            vocabularies=log.vocabularies,
            card=_card(log, to_plain(stage), users, trainer.finished),
            optimizer=trainer.optimizer,
        )
    return Pretrained(
        run_dir,
        sum(progress.seconds for progress in trainer.finished),
        sum(progress.num_examples for progress in trainer.finished),
    )


def _card(
    log: PreparedLog,
    settings: Mapping[str, Any],
    users: PretrainUsers,
    epochs: Sequence[EpochProgress],
) -> ModelCard:
    seconds = sum(epoch.seconds for epoch in epochs)
    return ModelCard(
        trained_on=f"{log.schema.name}: the histories of {users} users",
        data={"splits": ", ".join(readable_splits(log, users)), **log.counts},
        metrics={f"loss after epoch {epoch.epoch + 1}": epoch.mean_loss for epoch in epochs},
        settings={**settings, "seconds of training": round(seconds, 1)},
    )


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options, settings = parse("pretrain", __doc__, arguments)
    with report_errors(), process_group(settings.device) as device:
        previous = read_vocabularies(options.start) if options.start else None
        log = open_log(settings, options.out / "data", previous)
        done = pretrain(
            log,
            settings,
            options.out,
            dim=settings.dims[0],
            seed=options.seed,
            users=settings.pretrain_users[0],
            device=device,
            module=options.module,
            start=options.start,
        )
        if dist.get_rank() == 0:
            print(f"pretrained in {done.seconds:.0f} s: {done.run_dir}")


if __name__ == "__main__":
    main()
