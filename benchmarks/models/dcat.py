"""What encoding each request's history once is worth: DCAT against a row for every impression.

    python -m benchmarks.models.dcat

PinFM's encoder, width 128, 4 layers, 4 heads. All ways begin with the same impression log, a
history of ids and a candidate's id in each impression, the impressions of a request scattered over
it, and end with the log's candidates' vectors, or with the gradients of all weights and tables.
DCAT finds equal histories by group_requests, looks each up once and encodes it once, and puts the
vectors back in the log's order. The baselines look up and encode a row [history ; candidate] for
each impression: the same encoder and attention op, row by row, and a dense batch by PyTorch's
fused attention. Nobody's last layer computes more than the candidates need. Every way takes as many
requests, or impressions, in a pass as is fastest for it (tried first: 4, 16, 64).

"cached" is a serving request that comes back: candidates' ids looked up and crossed over the
history's kept keys and values, against encoding history and candidates.

Memory is that of one pass over the whole log, in a process of its own: what the call takes at its
peak beyond what the process, with model and log, held before. It is not measured of a log that the
baselines could not hold; in small passes every way takes little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from benchmarks.measure import (
    Row,
    Table,
    best_milliseconds,
    compared,
    figure,
    largest_difference,
    machine,
    parse,
    print_machine,
    write_json,
)
from benchmarks.models.dcat_ways import (
    Case,
    Log,
    Model,
    Way,
    draw_log,
    gradients,
    one_pass,
    scores,
)
from torchrec_gr.training.peak_memory import in_own_process, peak_bytes

Work = Literal["scoring", "training"]

Result = Tensor | list[Tensor]

WAYS: Sequence[Way] = get_args(Way)
SUFFIXES: Mapping[Way, str] = {"row by row": "", "padded SDPA": "_padded"}
WHAT: Mapping[Work, Callable[..., Result]] = {"scoring": scores, "training": gradients}
_SIZES = (4, 16, 64)
_TRIED_IMPRESSIONS = 64
_MOST_TOKENS = 300_000
_TOLERANCE = 1e-4


class Plan(NamedTuple):
    """What is measured, for how long each.

    Args:
        scoring, training: impression logs; a name has the history's length behind it where that is
            not `history`.
    """

    scoring: Sequence[Case]
    training: Sequence[Case]
    history: int
    seconds: float


FULL = Plan(
    scoring=(
        Case(64, 1, 256),
        Case(16, 10, 256),
        Case(2, 100, 256),
        Case(1, 1000, 256),
        Case(16, 1, 1024),
        Case(4, 10, 1024),
        Case(1, 100, 1024),
        Case(1, 1000, 1024),
    ),
    training=(Case(64, 1, 256), Case(8, 16, 256), Case(16, 1, 1024), Case(2, 16, 1024)),
    history=256,
    seconds=3.0,
)
QUICK = Plan(
    scoring=(Case(16, 1, 16), Case(4, 10, 16), Case(1, 100, 16), Case(1, 1000, 16)),
    training=(Case(16, 1, 16), Case(2, 16, 16)),
    history=16,
    seconds=0.1,
)


def measure(plan: Plan) -> list[Row]:
    """Prints the tables, a row for each case."""
    print("\nDCAT: ms (times DCAT's time; memory of one pass)")
    columns = {"work": 8, "requests": 8, "candidates": 10, "history": 7}
    table = Table(columns | dict.fromkeys(WAYS, 26))
    rows: list[Row] = []
    for case in plan.scoring:
        rows += _measure_case("scoring", case, plan, table)
    for case in plan.training:
        rows += _measure_case("training", case, plan, table)
    print("\na request of 100 candidates that comes back: ms")
    table = Table({"history": 7, "crossing": 8, "encoding": 8, "times faster": 12})
    lengths = dict.fromkeys(case.num_history for case in plan.scoring)
    return rows + [_measure_cached(length, plan, table) for length in lengths]


def _measure_case(work: Work, case: Case, plan: Plan, table: Table) -> list[Row]:
    model, log = prepare(case)
    sizes = {way: _fastest_size(work, model, way, log) for way in WAYS}
    runs: dict[str, Callable[[], Result]] = {
        way: partial(WHAT[work], model, way, log, size) for way, size in sizes.items()
    }
    results = {name: run() for name, run in runs.items()}
    differences = {way: _difference(results["DCAT"], results[way], case) for way in SUFFIXES}
    times = best_milliseconds(runs, plan.seconds)
    peaks = in_own_process(peaks_of, work, case)
    table.row(
        work,
        f"{case.num_requests}",
        f"{case.num_candidates}",
        f"{case.num_history}",
        *(
            f"{times[way]:.1f} ({times[way] / times['DCAT']:.2f}x; {_megabytes(peaks, way)})"
            for way in WAYS
        ),
    )
    name = named(f"{work}_1_{case.num_candidates}", case.num_history, plan)
    described = case._asdict() | {"in a pass": sizes}
    rows = [
        compared(name + suffix, described, times["DCAT"], times[way], differences[way])
        for way, suffix in SUFFIXES.items()
    ]
    return rows + [
        figure(f"{name}_peak_bytes", case._asdict() | {"by": way}, peak)
        for way, peak in peaks.items()
    ]


def _megabytes(peaks: Mapping[Way, int], way: Way) -> str:
    return f"{peaks[way] / 1e6:.0f} MB" if way in peaks else "-"


def named(name: str, num_history: int, plan: Plan) -> str:
    """With the history's length, where it is not the plan's first."""
    return name if num_history == plan.history else f"{name}_{num_history}"


def prepare(case: Case) -> tuple[Model, Log]:
    """The same model and log wherever it is called."""
    torch.manual_seed(0)
    return Model(case.num_history), draw_log(case)


def peaks_of(work: Work, case: Case) -> dict[Way, int]:
    """Bytes that one pass over a log takes in this process, which did nothing else before."""
    model, log = prepare(case)
    ways = WAYS if case.num_impressions * case.num_history <= _MOST_TOKENS else WAYS[:1]
    peaks: dict[Way, int] = {}
    for way in ways:
        WHAT[work](model, way, log.first(2), 2)
        peaks[way] = peak_bytes(partial(WHAT[work], model, way, log, case.num_impressions))
    return peaks


def _fastest_size(work: Work, model: Model, way: Way, log: Log) -> int:
    """Of `_SIZES`: requests of DCAT, impressions of the others, in a pass."""
    if way != "DCAT":
        log = log.first(_TRIED_IMPRESSIONS)
    times = {
        size: _seconds(partial(WHAT[work], model, way, log, size))
        for size in sorted({min(size, len(log.items)) for size in _SIZES})
    }
    return min(times, key=times.__getitem__)


def _seconds(run: Callable[[], object]) -> float:
    """Of the best of five calls, after one to warm up."""
    run()
    times = []
    for _ in range(5):
        began = perf_counter()
        run()
        times.append(perf_counter() - began)
    return min(times)


def _difference(ours: Result, other: Result, case: Case) -> float:
    ours, other = ([r] if isinstance(r, Tensor) else r for r in (ours, other))
    difference = largest_difference(ours, other)
    if not difference <= _TOLERANCE:
        raise RuntimeError(f"results differ by {difference:.1e}: {case}")
    return difference


def _measure_cached(num_history: int, plan: Plan, table: Table) -> Row:
    case = Case(1, 100, num_history)
    model, log = prepare(case)
    history, count = log.history[:1], torch.tensor([case.num_candidates])
    with torch.inference_mode():
        context = model.encoder.context(
            model.look_up(history, log.items, count)[0], torch.tensor([num_history])
        )

        def cross() -> Tensor:
            found = model.look_up(history[:, :0], log.items, count)
            return model.encoder.cross(context, found[1], count)

        encode = partial(one_pass, model, history, log.items, count)
        difference = _difference(cross(), encode(), case)
        times = best_milliseconds({"crossing": cross, "encoding": encode}, plan.seconds)
    ours, other = times["crossing"], times["encoding"]
    table.row(f"{num_history}", f"{ours:.2f}", f"{other:.2f}", f"{other / ours:.2f}")
    name = named("cached_1_100", num_history, plan)
    return compared(name, case._asdict(), ours, other, difference)


def main() -> None:
    """Measures, and writes the figures if asked to."""
    options = parse("benchmarks.models.dcat", __doc__)
    described = machine([torch.float32], 0.1 if options.quick else 1.0)
    print_machine(described)
    rows = measure(QUICK if options.quick else FULL)
    if options.json:
        write_json(options.json, described, rows)


if __name__ == "__main__":
    main()
