r"""Trains next-item recommenders of rising sizes, and fits a power law to their held-out losses.

    python -m pipelines.scaling --data movielens --data-dir DIR --out runs/scaling
    python -m pipelines.scaling --data synthetic --out runs/scaling --sizes L1D8,L2D16,L2D32,L4D64

All sizes share the item table's width, the data, the epochs and the seed. Stopped and started again
with the same --out, it goes on where it was; a size that is finished is not trained again, and
further sizes, or more epochs, may be asked for later.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from pipelines.configuration.command_line import report_errors
from pipelines.configuration.config import build, read_config
from pipelines.configuration.settings import Settings
from pipelines.recommending.models import hstu_config
from pipelines.recommending.settings import DATA_OPTIONS
from pipelines.recommending.training import held_out_loader, next_item_trainer, print_epoch
from pipelines.scaling_law.held_out_loss import held_out_losses
from pipelines.scaling_law.models import Size, build_of_size, num_dense, num_non_embedding
from pipelines.scaling_law.report import write_scaling_report
from pipelines.scaling_law.results import ScalingResults, ScalingRow
from pipelines.scaling_law.settings import ScalingSettings
from pipelines.stages.open_log import open_log
from torchrec_gr.data.datasets import DATASETS
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.training.process_group import process_group


def run_size(
    log: PreparedLog,
    settings: ScalingSettings,
    size: Size,
    results: ScalingResults,
    device: torch.device,
) -> None:
    """Trains one size, or finishes what was begun; every evaluation goes into the results.

    Args:
        log: whose events are read.
        settings: of training.
        size: of the trunk.
        results: of all sizes.
        device: where to train.
    """
    training = settings.training
    model = build_of_size(training, log, size, settings.seed)
    counts = num_non_embedding(model), num_dense(model)
    held_out = held_out_loader(log, training)
    temperature = hstu_config(training, log.schema).temperature
    run_dir = results.out / size.name
    trainer = next_item_trainer(
        model, log, training, seed=settings.seed, run_dir=run_dir, device=device
    )
    trainer.resume()
    while True:
        epoch = trainer.progress.epoch
        due = epoch > 0 and (epoch % training.evaluate_every == 0 or epoch == training.epochs)
        if due and trainer.progress.step == 0 and epoch not in results.epochs_of(size.name):
            losses = held_out_losses(trainer.detach(), held_out, temperature, device)
            mean = float(np.nanmean(losses, dtype=np.float64))
            seconds = sum(finished.seconds for finished in trainer.finished)
            training_loss = trainer.finished[-1].mean_loss
            row = ScalingRow(size.name, *counts, epoch, training_loss, mean, seconds / 60)
            if dist.get_rank() == 0:
                results.add(row, losses)
                print(f"{size.name}: held-out loss {mean:.4f}", flush=True)
        if epoch >= training.epochs:
            return
        print_epoch(size.name, trainer.train_epoch(), training.epochs)


def run_scaling(
    log: PreparedLog, settings: ScalingSettings, out: Path, device: torch.device
) -> str:
    """Trains every size that is not finished, and gives the report.

    Args:
        log: whose events are read.
        settings: which sizes, in which order, and of their training.
        out: of everything.
        device: where to train.

    Raises:
        ValueError: fewer than four sizes, or `out` holds results under other settings.
    """
    sizes = [Size.parse(name) for name in settings.sizes]
    if len(set(sizes)) < 4:
        raise ValueError(f"a power law needs at least four sizes, got {', '.join(settings.sizes)}")
    results = ScalingResults(out, settings)
    for number, size in enumerate(sizes):
        if results.is_finished(size.name):
            continue
        print(f"{size.name}: size {number + 1} of {len(sizes)}", flush=True)
        run_size(log, settings, size, results, device)
        if dist.get_rank() == 0:
            write_scaling_report(results)
    return write_scaling_report(results) if dist.get_rank() == 0 else ""


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, ScalingSettings]:
    """Reads the arguments: defaults, then the file of --config, then the command line."""
    d = ScalingSettings()
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", choices=tuple(DATASETS), help=f"which log (default: {d.training.data})"
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="its files")
    parser.add_argument(
        "--sizes",
        metavar="S[,S...]",
        help=f"layers, width and heads of each (default: {','.join(d.sizes)})",
    )
    parser.add_argument("--epochs", type=int, help=f"(default: {d.training.epochs})")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML of any other setting")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/scaling"),
        metavar="DIR",
        help="where everything is written (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        settings = build(ScalingSettings, read_config(options.config) if options.config else {})
        return options, _with_command_line(settings, options)
    except ValueError as error:
        parser.error(str(error))


def _with_command_line(settings: ScalingSettings, options: argparse.Namespace) -> ScalingSettings:
    given = {
        name: value
        for name in ("data", "data_dir", "epochs")
        if (value := getattr(options, name)) is not None
    }
    training = dataclasses.replace(settings.training, **given)
    options_of_data = {**DATA_OPTIONS.get(training.data, {}), **training.data_options}
    training = dataclasses.replace(training, data_options=options_of_data)
    sizes = tuple(options.sizes.split(",")) if options.sizes else settings.sizes
    for name in sizes:
        Size.parse(name)
    return dataclasses.replace(settings, training=training, sizes=sizes)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options, settings = parse(arguments)
    training = settings.training
    with report_errors(), process_group(training.device) as device:
        source = Settings(
            data=training.data, data_dir=training.data_dir, data_options=training.data_options
        )
        log = open_log(source, options.out / "data")
        report = run_scaling(log, settings, options.out, device)
        if dist.get_rank() == 0:
            print(report)


if __name__ == "__main__":
    main()
