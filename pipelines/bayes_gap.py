"""How the gap to the best possible AUC shrinks with data and with width, on made-up logs.

    python -m pipelines.bayes_gap --out runs/bayes-gap
    python -m pipelines.bayes_gap --sizes 15000,60000 --dims 16,32 --models dlrm,gpsd --out DIR

A size is a number of impressions; users and unlabelled events grow with it, items stay. Every size
is a comparison in a folder of its own inside --out. Stopped and started again, it does what is
left. Writes bayes_gap.md and bayes_gap.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pipelines.benchmarking.terms import Terms
from pipelines.configuration.command_line import numbers, read_settings, report_errors, words
from pipelines.configuration.settings import Settings
from pipelines.results.description import describe, describe_folder
from pipelines.results.plan import plan
from pipelines.results.rows import ResultRow, read_results, write_atomically
from pipelines.results.summary import chosen_rows
from pipelines.stages.comparison import Comparison
from pipelines.stages.open_log import open_log
from torchrec_gr.data.log_source import TRAIN
from torchrec_gr.metrics import welch_half_width
from torchrec_gr.training.process_group import process_group

MODELS = "dlrm,dlrm_dcn,gpsd,mtgr"
SIZES = "15000,30000,60000,120000"
IMPRESSIONS_PER_USER = 15
EVENTS_PER_IMPRESSION = 2.5
_SETTINGS = ("models", "dims", "seeds", "epochs")


@dataclasses.dataclass(frozen=True)
class Gap:
    """How far one model of one width stays below the best possible AUC on one log.

    Args:
        training_rows: labelled.
        model, dim: which.
        aucs: test AUC of each seed, at the epoch that the validation split chooses.
        bayes_auc: of the true probabilities, on the same rows.
    """

    training_rows: int
    model: str
    dim: int | None
    aucs: tuple[float, ...]
    bayes_auc: float

    @property
    def value(self) -> float:
        """The mean gap."""
        return self.bayes_auc - float(np.mean(self.aucs))

    @property
    def half_width(self) -> float | None:
        """Half the 95% interval of the gap over seeds; None of one seed."""
        return welch_half_width(self.aucs, (0.0, 0.0))  # the ceiling has no spread

    @property
    def deviation(self) -> float | None:
        """Of the AUC over seeds."""
        return float(np.std(self.aucs, ddof=1)) if self.aucs[1:] else None

    def to_dict(self) -> dict[str, Any]:
        """What bayes_gap.json holds of it."""
        derived = {"gap": self.value, "half_width": self.half_width, "deviation": self.deviation}
        return {**dataclasses.asdict(self), **derived}


def run_size(
    settings: Settings, size: int, out: Path, device: torch.device, command: str
) -> list[Gap]:
    """Compares the models on a log of one size, or finishes what was begun.

    Args:
        settings: which models, widths and seeds, and how they train.
        size: impressions of the log.
        out: the folder of this size.
        device: where to train.
        command: what to type to have it again.
    """
    grown = {
        "num_users": max(1, size // IMPRESSIONS_PER_USER),
        "num_impressions": size,
        "num_organic": round(EVENTS_PER_IMPRESSION * size),
    }
    settings = dataclasses.replace(settings, data_options={**settings.data_options, **grown})
    log = open_log(settings, out / "data")
    if dist.get_rank() == 0:
        describe_folder(out, describe(log, settings, command))
    runs = plan(settings, has_histories=True)
    Comparison(log, Terms(settings), out, device).run(runs)
    wanted = {run.key for run in runs}
    rows = [row for row in read_results(out) if row.run in wanted]
    return gaps(rows, log.num_rows(TRAIN), log.source.notes["bayes_auc"])


def gaps(rows: list[ResultRow], training_rows: int, bayes_auc: float) -> list[Gap]:
    """One gap for each model and width, over its seeds.

    Args:
        rows: of one comparison.
        training_rows: that its models were trained on.
        bayes_auc: the ceiling of its test rows.
    """
    aucs: dict[tuple[str, int | None], list[float]] = {}
    for row in chosen_rows(rows).values():
        aucs.setdefault((row.model, row.dim), []).append(row.auc)
    return [Gap(training_rows, *key, tuple(found), bayes_auc) for key, found in aucs.items()]


def report(found: list[Gap]) -> str:
    """The table, and for each model and width whether its gap shrank, in Markdown."""
    lines = [
        "# The gap to the best possible AUC",
        "",
        "| training rows | model | width | test AUC | Bayes AUC | gap | 95% over seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for gap in found:
        spread = "" if gap.deviation is None else f" ± {gap.deviation:.4f}"
        half = gap.half_width
        interval = "-" if half is None else f"{gap.value - half:.4f} to {gap.value + half:.4f}"
        lines.append(
            f"| {gap.training_rows:,} | {gap.model} | {gap.dim} | {np.mean(gap.aucs):.4f}{spread} "
            f"| {gap.bayes_auc:.4f} | {gap.value:.4f} | {interval} |"
        )
    lines += ["", "## With data", ""]
    for model, dim in dict.fromkeys((g.model, g.dim) for g in found):
        of = sorted(
            (g for g in found if (g.model, g.dim) == (model, dim)), key=lambda g: g.training_rows
        )
        words = ("training rows", f"{of[0].training_rows:,}", f"{of[-1].training_rows:,}")
        lines.append(_verdict(f"{model}, width {dim}", words, of))
    lines += ["", "## With width", ""]
    for model, num_rows in dict.fromkeys((g.model, g.training_rows) for g in found):
        of = sorted(
            (g for g in found if (g.model, g.training_rows) == (model, num_rows)),
            key=lambda g: g.dim or 0,
        )
        words = ("width", str(of[0].dim), str(of[-1].dim))
        lines.append(_verdict(f"{model}, {num_rows:,} training rows", words, of))
    lines += [
        "",
        "The intervals count chance in training alone: every size is one draw of users, items and "
        "clicks, with test rows and a best possible AUC of its own.",
    ]
    return "\n".join(lines) + "\n"


def _verdict(what: str, words: tuple[str, str, str], of: list[Gap]) -> str:
    """A line on the first gap against the last."""
    axis, first_at, last_at = words
    if len(of) < 2:
        return f"- {what}: one {axis} only, so nothing to compare."
    first, last = of[0], of[-1]
    change = last.value - first.value
    half = welch_half_width(first.aucs, last.aucs)
    if half is None:
        verdict = "no verdict: it takes two seeds"
    elif abs(change) <= half:
        verdict = "not told apart from no change"
    else:
        verdict = "it shrinks" if change < 0 else "it grows"
    steps = [b.value - a.value for a, b in pairwise(of)]
    if verdict == "it shrinks" and max(steps) > 0:
        verdict += ", though not at every step"
    interval = "" if half is None else f" ± {half:.4f}"
    return (
        f"- {what}: from {first.value:.4f} at {axis} {first_at} to {last.value:.4f} at {last_at}, "
        f"{change:+.4f}{interval}: {verdict}."
    )


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, Settings]:
    """Reads the arguments: defaults of the made-up log, the file of --config, the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.bayes_gap",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", type=words, default=MODELS, help="(default: %(default)s)")
    parser.add_argument(
        "--sizes", type=numbers, default=SIZES, help="impressions (default: %(default)s)"
    )
    parser.add_argument(
        "--dims", type=numbers, default="16,32", help="widths (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML of any other setting")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of everything")
    options = parser.parse_args(arguments)
    options.sizes, options.dims = (sorted(set(of)) for of in (options.sizes, options.dims))
    given = {name: getattr(options, name) for name in _SETTINGS}
    try:
        settings = read_settings(
            options.config, {**given, "data": "synthetic", "strategies": ("none",)}
        )
    except ValueError as error:
        parser.error(str(error))
    return options, settings


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options, settings = parse(arguments)
    out: Path = options.out
    given = sys.argv[1:] if arguments is None else arguments
    command = f"python -m pipelines.bayes_gap {shlex.join(given)}"
    with report_errors(), process_group(settings.device) as device:
        plan(settings, has_histories=True)  # a word that is wrong is found before a log is drawn
        found: list[Gap] = []
        for size in options.sizes:
            found += run_size(settings, size, out / f"impressions-{size}", device, command)
            if dist.get_rank() == 0:
                content = json.dumps([gap.to_dict() for gap in found], indent=1)
                write_atomically(out / "bayes_gap.json", content.encode())
                write_atomically(out / "bayes_gap.md", report(found).encode())
        if dist.get_rank() == 0:
            print(report(found))


if __name__ == "__main__":
    main()
