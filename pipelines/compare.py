"""Vanilla DLRM against generative models: several seeds, one split, a side-by-side report.

    python -m pipelines.compare --data synthetic --out runs/demo
    python -m pipelines.compare --data custom --data-dir logs --config mine.yaml --out runs/mine

Writes results.json, report.html and report.md into --out as it goes. Stopped and started again, it
does what is left; more seeds, models or strategies add to what is there.
"""

from __future__ import annotations

import shlex
import sys

import torch.distributed as dist

from pipelines.benchmarking.terms import Terms
from pipelines.configuration.command_line import parse, report_errors
from pipelines.reports.comparison import format_table, write_report
from pipelines.results.description import describe, describe_folder
from pipelines.results.plan import plan
from pipelines.results.rows import read_results
from pipelines.stages.comparison import Comparison
from pipelines.stages.open_log import open_log
from torchrec_gr.training.process_group import process_group


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options, settings = parse("compare", __doc__, arguments)
    with report_errors(), process_group(settings.device) as device:
        plan(settings, has_histories=True)  # a word that is wrong is found before the log is read
        log = open_log(settings, options.out / "data")
        runs = plan(settings, has_histories=log.schema.target is not None)
        writes = dist.get_rank() == 0
        if writes:
            given = sys.argv[1:] if arguments is None else arguments
            command = f"python -m pipelines.compare {shlex.join(given)}"
            describe_folder(options.out, describe(log, settings, command))
        Comparison(log, Terms(settings), options.out, device).run(runs)
        if writes:
            write_report(options.out)
            print(format_table(read_results(options.out), options.out))
            print(f"report: {options.out / 'report.html'}")


if __name__ == "__main__":
    main()
