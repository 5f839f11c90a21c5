"""What MTGR's way of training is worth: exposures of a user in one row, batches by tokens.

    python -m benchmarks.models.mtgr

Aggregation: a training step on the same exposures, those of a user's window behind one history, or
each in a row of its own behind the events that happened before it. Model, attention op, loss,
fused table optimizer and dense optimizer are the same. Both ways' logits and loss are compared
before a step is timed: the dynamic mask shows a candidate the same events in both.

Batches: an epoch of rows of skewed lengths (mean 600 tokens, most 3,000) at two processes of one
thread each; every step has as many rows a rank, or as many tokens, dealt out to the ranks by their
work. A step takes as long as its slower rank; of each step the best round counts, so that the
spread is the lengths' and not the machine's.

Cost: scoring the candidates of one request, and the FLOPs of a forward pass as PyTorch's counter
finds them (products alone; look-ups are free), beside those of a DLRM with the same tables.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

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
from benchmarks.models import mtgr_balance, mtgr_cost
from benchmarks.models.mtgr_balance import BATCHINGS, NUM_RANKS, Batching, Epoch
from benchmarks.models.mtgr_cost import measure_flops, measure_scoring
from benchmarks.models.mtgr_training import Training
from benchmarks.models.mtgr_windows import draw_windows, num_tokens, one_sequence_each
from torchrec_gr.models.mtgr_config import MTGRConfig
from torchrec_gr.sequences.request_batch import RequestBatch
from torchrec_gr.training.process_group import process_group

_TOLERANCE = 1e-5
_MOST_TOKENS = 512


class Case(NamedTuple):
    """A batch of user windows.

    Args:
        name: of the row.
        num_windows: users.
        num_candidates: exposures of every window; a fraction is the mean of uneven windows.
        num_history, num_real_time: events of every window, and how many of them lie in it.
        dim: width of the model; 3 layers, 2 heads.
    """

    name: str
    num_windows: int
    num_candidates: float
    num_history: int = 200
    num_real_time: int = 20
    dim: int = 128


class Plan(NamedTuple):
    """What is measured.

    Args:
        windows: batches whose windows are taken apart.
        balance: an epoch at two processes.
        cost: of forward passes.
        seconds: for each comparison, about.
    """

    windows: Sequence[Case]
    balance: mtgr_balance.Case
    cost: mtgr_cost.Case
    seconds: float


FULL = Plan(
    windows=(
        Case("aggregation_5", 16, 5),
        Case("aggregation_20", 8, 20),
        Case("aggregation_50", 4, 50),
        Case("aggregation_kuairand_window", 16, 9.0),
        Case("aggregation_kuairand_day", 32, 1.85),
    ),
    balance=mtgr_balance.Case(num_steps=48, num_rows=8, dim=128, num_rounds=2),
    cost=mtgr_cost.Case(
        num_candidates=(1, 3, 10, 30, 100, 300, 1000),
        num_history=200,
        num_real_time=20,
        dim=128,
        sizes=("small", "medium", "large"),
        num_tokens=600,
    ),
    seconds=10.0,
)
QUICK = Plan(
    windows=tuple(
        case._replace(num_windows=4, num_history=50, num_real_time=5, dim=64)
        for case in FULL.windows
    ),
    balance=mtgr_balance.Case(num_steps=4, num_rows=8, dim=16, num_rounds=1),
    cost=FULL.cost._replace(
        num_candidates=(1, 10, 100, 1000), num_history=50, dim=64, sizes=("small",), num_tokens=100
    ),
    seconds=0.3,
)


def measure(plan: Plan) -> list[Row]:
    """Prints the tables, a row for each case."""
    rows = measure_aggregation(plan.windows, plan.seconds) + measure_balance(plan.balance)
    return rows + measure_scoring(plan.cost, plan.seconds) + measure_flops(plan.cost)


def measure_aggregation(cases: Sequence[Case], seconds: float) -> list[Row]:
    """A training step on the same exposures, in windows and one by one."""
    print("\nexposures of a window in one row, against a row for each: a training step")
    columns = {"exposures a window": 8, "windows": 7, "history": 7, "tokens": 7, "one each": 8}
    columns |= {"ms": 8, "one each, ms": 8, "examples/s": 10, "one each /s": 9, "ratio": 6}
    table = Table(columns)
    with process_group("cpu"):
        return [row for case in cases for row in _aggregated(case, seconds, table)]


def _aggregated(case: Case, seconds: float, table: Table) -> list[Row]:
    window = draw_batch(case)
    batches = {"windows": window, "one each": one_sequence_each(window)}
    config = MTGRConfig(dim=case.dim, max_seq_len=_MOST_TOKENS)
    trainings = {way: Training(config) for way in batches}
    difference = _difference(trainings, batches, case)
    steps = {way: partial(trainings[way].step, batch) for way, batch in batches.items()}
    for step in steps.values():
        step()
    ms = best_milliseconds(steps, seconds)
    num_examples = len(window.source_rows)
    tokens = {way: int(num_tokens(batch).sum()) for way, batch in batches.items()}
    a_second = {way: 1000 * num_examples / of_step for way, of_step in ms.items()}
    row = compared(
        case.name,
        case._asdict() | {"num_exposures": num_examples, "tokens": tokens},
        ms["windows"],
        ms["one each"],
        difference,
    )
    table.row(
        f"{num_examples / case.num_windows:.2f}",
        f"{case.num_windows}",
        f"{case.num_history}",
        *(f"{tokens[way]}" for way in batches),
        *(f"{ms[way]:.1f}" for way in batches),
        *(f"{a_second[way]:.0f}" for way in batches),
        f"{row['ratio']:.2f}",
    )
    return [row] + [
        figure(f"{case.name}_examples_per_second", case._asdict() | {"by": way}, value)
        for way, value in a_second.items()
    ]


def draw_batch(case: Case) -> RequestBatch:
    """A case's windows; uneven ones have the quantiles of a geometric law."""
    num_candidates = torch.full((case.num_windows,), int(case.num_candidates))
    if isinstance(case.num_candidates, float):
        num_candidates = _geometric(case.num_windows, case.num_candidates)
    num_history = torch.full_like(num_candidates, case.num_history)
    num_real_time = torch.full_like(num_candidates, case.num_real_time)
    return draw_windows(num_history, num_candidates, num_real_time)


def _geometric(count: int, mean: float) -> Tensor:
    quantiles = (torch.arange(count) + 0.5) / count
    return ((1 - quantiles).log() / math.log(1 - 1 / mean)).ceil().long()


def _difference(
    trainings: Mapping[str, Training], batches: Mapping[str, RequestBatch], case: Case
) -> float:
    """Of logits and loss, before anything is trained."""
    results = []
    for way, training in trainings.items():
        loss, output = training.scores(batches[way])
        assert output.logits is not None
        results.append([output.logits, loss])
    difference = largest_difference(*results)
    if not difference <= _TOLERANCE:
        raise RuntimeError(f"results differ by {difference:.1e}: {case}")
    return difference


def measure_balance(case: mtgr_balance.Case) -> list[Row]:
    """An epoch in batches of so many rows, and of so many tokens."""
    print(
        f"\n{case.num_sequences} rows of skewed lengths, {NUM_RANKS} processes, on average "
        f"{case.num_rows} rows a rank and step: ms of a step"
    )
    columns = {"batches by": 10, "tokens/s": 8, "median": 8, "p10": 8, "p90": 8, "max": 8}
    table = Table(columns | {"fullest rank, tokens": 8, "epoch, s": 8})
    epochs = mtgr_balance.train(case)
    difference = abs(epochs["tokens"].loss_sum / epochs["rows"].loss_sum - 1)
    if not difference <= _TOLERANCE:
        raise RuntimeError(f"the losses of the same rows differ by {difference:.1e}: {case}")
    rows: list[Row] = []
    for batching in BATCHINGS:
        rows += _spread(batching, epochs[batching], case, table)
    means = {batching: sum(epoch.step_ms) / case.num_steps for batching, epoch in epochs.items()}
    described = case._asdict() | {"num_tokens": epochs["tokens"].num_tokens}
    print(f"\nby tokens {means['rows'] / means['tokens']:.2f} times as fast")
    return [
        compared("token_balanced", described, means["tokens"], means["rows"], difference),
        *rows,
    ]


def _spread(batching: Batching, epoch: Epoch, case: mtgr_balance.Case, table: Table) -> list[Row]:
    ms = torch.tensor(epoch.step_ms)
    found = {
        "median": float(ms.median()),
        "p10": float(ms.quantile(0.1)),
        "p90": float(ms.quantile(0.9)),
        "max": float(ms.max()),
    }
    a_second = 1000 * epoch.num_tokens / float(ms.sum())
    table.row(
        batching,
        f"{a_second:.0f}",
        *(f"{value:.1f}" for value in found.values()),
        f"{max(epoch.tokens)}",
        f"{float(ms.sum()) / 1000:.2f}",
    )
    described = case._asdict() | {"batches by": batching}
    rows = [
        figure(f"token_balanced_step_ms_{name}", described, value) for name, value in found.items()
    ]
    return [*rows, figure("token_balanced_tokens_per_second", described, a_second)]


def main() -> None:
    """Measures, and writes the figures if asked to."""
    options = parse("benchmarks.models.mtgr", __doc__)
    described = machine([torch.float32], 0.1 if options.quick else 1.0)
    print_machine(described)
    rows = measure(QUICK if options.quick else FULL)
    if options.json:
        write_json(options.json, described, rows)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    main()
