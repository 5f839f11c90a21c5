"""Every model against vanilla DLRM, tuned alike, at equal cost or each at its own best.

    python -m pipelines.benchmark --data synthetic --out runs/benchmark
    python -m pipelines.benchmark --data kuairand-pure --data-dir DIR --budget seconds 60 \
        --out runs/equal-seconds
    python -m pipelines.benchmark --data custom --data-dir logs --config mine.yaml \
        --budget flops 1e14 --out runs/equal-flops

First every model's costs are measured in a process of their own, then every variant, which is a
model and a way to use pretrained weights, is tuned by the same few trials on the validation split,
then it trains under every seed. Writes results.json, search.json, costs.json, report.html and
report.md into --out as it goes. Stopped and started again, it does what is left. With --baseline
FILE it ends with an error where a metric is worse than in an earlier results.json by more than
chance may have done.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from pipelines.benchmarking.cost import Cost, read_costs, write_cost
from pipelines.benchmarking.measuring import measure_cost
from pipelines.benchmarking.references import missing_for, score_references
from pipelines.benchmarking.regression import regressions
from pipelines.benchmarking.search import tune
from pipelines.benchmarking.terms import Terms, cost_name
from pipelines.benchmarking.width import widest
from pipelines.configuration.command_line import parse, report_errors
from pipelines.configuration.model_name import parse_model
from pipelines.configuration.settings import Settings
from pipelines.configuration.variants import lay_over
from pipelines.reports.comparison import format_table, write_report
from pipelines.results.description import describe, describe_folder
from pipelines.results.plan import LABELS, Run, plan
from pipelines.results.rows import read_result_file, read_results
from pipelines.stages.comparison import Comparison
from pipelines.stages.open_log import as_read, open_log
from pipelines.stages.rankers import build_ranker
from pipelines.stages.transferring import FirstWeights
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.training.process_group import process_group


def benchmark(log: PreparedLog, settings: Settings, out: Path, device: torch.device) -> None:
    """Measures, tunes, trains and reports, or goes on where an earlier start ended.

    Args:
        log: the impressions.
        settings: of the benchmark.
        out: its folder.
        device: where to train.
    """
    runs = _runs(log, settings)
    terms = Terms(settings, costs=_costs(settings, runs, out))
    for pretrains in (False, True):  # a model that pretrains itself does so as it was tuned
        pretrained = Comparison(log, terms, out, device).pretrained
        some = [run for run in runs if (run.pretrain is not None) == pretrains]
        tuned = tune(log, settings, out, device, some, pretrained)
        terms = dataclasses.replace(terms, tuned={**terms.tuned, **tuned})
    if dist.get_rank() == 0:
        score_references(log, settings, out)
    dist.barrier()
    Comparison(log, terms, out, device).run(runs)


def runnable(settings: Settings, log: PreparedLog) -> tuple[Settings, tuple[str, ...]]:
    """The settings less what a log or the environment lacks something for, and why in words."""
    left_out = {}
    for model in settings.models:
        name = parse_model(model, settings.variants)
        own = lay_over(settings, name.variant)
        try:
            if name.module is not None and not _histories(log):
                raise ValueError(f"a {name.module} module reads histories: this log has none")
            build_ranker(name, as_read(log, own), own, settings.dims[0], 0, FirstWeights())
        except ValueError as error:
            left_out[model] = str(error)
    for reference in settings.references:
        if (reason := missing_for(log, reference)) is not None:
            left_out[reference] = reason
    models = tuple(model for model in settings.models if model not in left_out)
    references = tuple(name for name in settings.references if name not in left_out)
    words = tuple(f"{model} is left out: {reason}." for model, reason in left_out.items())
    if dist.get_rank() == 0 and words:
        print("\n".join(words), flush=True)
    return dataclasses.replace(settings, models=models, references=references), words


def _histories(log: PreparedLog) -> bool:
    return log.schema.target is not None


def _runs(log: PreparedLog, settings: Settings) -> list[Run]:
    """Every run, each model as wide as the settings or a budget of parameters say."""
    runs = plan(settings, has_histories=_histories(log))
    if settings.budget is None or settings.budget.kind != "parameters":
        return runs
    most = settings.budget.value
    widths = {m: widest(log, settings, m, most) for m in {r.model for r in runs}}
    return [dataclasses.replace(run, dim=widths[run.model]) for run in runs]


def _costs(settings: Settings, runs: Sequence[Run], out: Path) -> Mapping[str, Cost]:
    """What each model costs; measured on the first process where it is not known yet."""
    if dist.get_rank() == 0:
        known = read_costs(out)
        for run in {cost_name(run): run for run in runs}.values():
            if cost_name(run) in known:
                continue
            print(f"measuring what {run.model} costs", flush=True)
            name = parse_model(run.model, settings.variants)
            pretrains = any(r.model == run.model and r.pretrain not in (None, LABELS) for r in runs)
            cost = measure_cost(
                settings,
                out / "data",
                model=run.model,
                dim=run.dim,
                module=name.pretrains if pretrains else None,
            )
            write_cost(out, cost_name(run), cost)
    dist.barrier()
    return read_costs(out)


def _hold_against(earlier: Path, out: Path) -> None:
    """Ends the process with an error where a metric fell by more than its noise band."""
    fallen = regressions(read_results(out), read_result_file(earlier))
    if fallen:
        sys.exit("\n".join(["worse than the baseline:", *map(str, fallen)]))
    print(f"nothing is worse than {earlier} by more than its noise band")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options, settings = parse("benchmark", __doc__, arguments)
    with report_errors(), process_group(settings.device) as device:
        plan(settings, has_histories=True)  # a word that is wrong is found before the log is read
        if options.earlier is not None:
            read_result_file(options.earlier)
        log = open_log(settings, options.out / "data")
        settings, left_out = runnable(settings, log)
        writes = dist.get_rank() == 0
        if writes:
            given = sys.argv[1:] if arguments is None else arguments
            command = f"python -m pipelines.benchmark {shlex.join(given)}"
            info = describe(log, settings, command)
            info = dataclasses.replace(info, remarks=(*info.remarks, *left_out))
            describe_folder(options.out, info)
        benchmark(log, settings, options.out, device)
        if writes:
            write_report(options.out)
            print(format_table(read_results(options.out), options.out))
            print(f"report: {options.out / 'report.html'}")
            if options.earlier is not None:
                _hold_against(options.earlier, options.out)


if __name__ == "__main__":
    main()
