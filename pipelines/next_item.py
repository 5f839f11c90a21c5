r"""Trains a recommender of the next item, and ranks each user's last item among all others.

    python -m pipelines.next_item --data movielens --data-dir DIR --model hstu --out runs/next-item
    python -m pipelines.next_item --data movielens --data-dir DIR --model sasrec --seeds 0,1,2 \
        --out runs/next-item

The configuration of sasrec, hstu and hstu-large is that of HSTU's public table, for ML-1M unless
--published says otherwise. Stopped and started again with the same --out, it goes on where it was.
All runs of one --out stand in one report.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any, get_args

import torch
import torch.distributed as dist

from pipelines.configuration.command_line import report_errors
from pipelines.configuration.config import build, read_config
from pipelines.configuration.settings import Settings
from pipelines.recommending.models import MODELS, build_recommender, hstu_config
from pipelines.recommending.report import NextItemRow, read_rows, write_report
from pipelines.recommending.settings import DATA_OPTIONS, NextItemSettings
from pipelines.recommending.training import Evaluated, train_next_item
from pipelines.stages.open_log import open_log
from pipelines.stages.run_folder import describe_run
from torchrec_gr.data.datasets import DATASETS
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.models.hstu_config import PublishedData
from torchrec_gr.training.process_group import process_group


def run_next_item(
    log: PreparedLog, settings: NextItemSettings, seed: int, out: Path, device: torch.device
) -> str:
    """Trains one recommender, or finishes what was begun, and brings the report up to date.

    Args:
        log: whose events are read.
        settings: of model and training.
        seed: of the run.
        out: of all runs; this one's checkpoints are in a folder of its own.
        device: where to train.

    Returns:
        The report.
    """
    run_dir = out / f"{settings.model}.s{seed}"
    facts = _facts(log, settings, seed)
    if dist.get_rank() == 0:
        describe_run(run_dir, log, {"settings": settings, "seed": seed})

    def keep(evaluated: Evaluated) -> None:
        if dist.get_rank() == 0:
            row = _row(facts, evaluated, settings.epochs)
            metrics = ", ".join(f"{name} {value:.4f}" for name, value in row.metrics.items())
            print(f"{run_dir.name}: after epoch {row.epoch}: {metrics}", flush=True)
            write_report(out, [*read_rows(out), row])

    known = [row for row in read_rows(out) if (row.model, row.seed) == (settings.model, seed)]
    train_next_item(
        log,
        settings,
        seed=seed,
        run_dir=run_dir,
        device=device,
        evaluated=[row.epoch for row in known],
        on_evaluated=keep,
    )
    return write_report(out, read_rows(out)) if dist.get_rank() == 0 else ""


def _facts(log: PreparedLog, settings: NextItemSettings, seed: int) -> dict[str, Any]:
    """What is the same in every row of a run."""
    assert log.schema.target is not None  # checked by whoever reads events
    body = build_recommender(settings, log, seed).get_submodule("body")
    return {
        "model": settings.model,
        "data": settings.data,
        "published": settings.published if settings.sizes is None else None,
        "seed": seed,
        "num_items": log.table_rows[log.schema.feature(log.schema.target).table] - 1,
        "num_dense": sum(p.numel() for p in body.parameters()),
        "reads_times": hstu_config(settings, log.schema).trunk.bias == "position_time",
    }


def _row(facts: dict[str, Any], evaluated: Evaluated, num_epochs: int) -> NextItemRow:
    return NextItemRow(
        **facts,
        epoch=evaluated.epoch,
        last=evaluated.epoch == num_epochs,
        num_users=len(evaluated.ranks.ranks),
        loss=evaluated.loss,
        minutes=evaluated.seconds / 60,
        metrics=evaluated.ranks.metrics(),
    )


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, NextItemSettings]:
    """Reads the arguments: defaults, then the file of --config, then the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.next_item",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    d = NextItemSettings()
    parser.add_argument("--data", choices=tuple(DATASETS), help=f"which log (default: {d.data})")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="its files")
    parser.add_argument("--model", choices=MODELS, help=f"(default: {d.model})")
    parser.add_argument(
        "--published",
        choices=get_args(PublishedData),
        help=f"whose published configuration (default: {d.published})",
    )
    parser.add_argument("--epochs", type=int, help=f"(default: {d.epochs})")
    parser.add_argument(
        "--seeds", default="0", metavar="S[,S...]", help="one run each (default: 0)"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML of any other setting")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/next-item"),
        metavar="DIR",
        help="where everything is written (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    names = {field.name for field in dataclasses.fields(NextItemSettings)}
    given = {k: v for k, v in vars(options).items() if k in names and v is not None}
    try:
        from_file = read_config(options.config) if options.config else {}
        merged = {**from_file, **given}
        data = merged.get("data", d.data)
        merged["data_options"] = {**DATA_OPTIONS.get(data, {}), **merged.get("data_options", {})}
        options.seeds = [int(seed) for seed in options.seeds.split(",")]
        return options, build(NextItemSettings, merged)
    except ValueError as error:
        parser.error(str(error))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options, settings = parse(arguments)
    with report_errors(), process_group(settings.device) as device:
        source = Settings(
            data=settings.data, data_dir=settings.data_dir, data_options=settings.data_options
        )
        log = open_log(source, options.out / "data")
        for seed in options.seeds:
            report = run_next_item(log, settings, seed, options.out, device)
        if dist.get_rank() == 0:
            print(report)


if __name__ == "__main__":
    main()
