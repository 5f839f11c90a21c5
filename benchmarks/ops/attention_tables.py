"""The tables that the benchmarks of both attention ops print: no time before its results agree."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.measure import (
    Row,
    Table,
    best_milliseconds,
    compared,
    dtype_name,
    figure,
    largest_difference,
    machine,
    parse,
    print_machine,
    write_json,
)
from benchmarks.ops.attention_inputs import (
    DRAWN,
    NUM_HEADS,
    Attend,
    AttentionInputs,
    draw_biases,
    draw_inputs,
    draw_masks,
    idle,
    run,
    useful_flops,
)

LARGEST_DIFFERENCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""No time is printed where results differ by more, relative to the largest value of each."""

_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
_PASSES = {False: "fwd", True: "fwd+bwd"}

_LEGEND = """of peak: FLOPs of visible pairs (2 products forward, 5 backward) of torch.matmul's
difference: the largest in output and gradients, relative to the largest value of each
to fp32: the same, from padded attention in fp32"""


class Contestant(NamedTuple):
    """What an op is compared with. `same_function`: the results must be the op's."""

    name: str
    attend: Attend
    same_function: bool = True


class Op(NamedTuple):
    """An op, its oracle, and what it is compared with; the first of those is the same function."""

    name: str
    attend: Attend
    reference: Attend
    contestants: Sequence[Contestant]


class Plan(NamedTuple):
    """What is measured, and for how long.

    Args:
        batches, widths: (B, N) and D of the comparison with padded attention.
        batch, width: (B, N) and D of masks and biases.
        odd_widths: widths, each with the regular one that it is held against.
        seconds: how long to measure each thing.
    """

    batches: Sequence[tuple[int, int]]
    widths: Sequence[int]
    batch: tuple[int, int]
    width: int
    odd_widths: Sequence[tuple[int, int]]
    seconds: float


FULL = Plan(((32, 200), (8, 1024), (4, 4096)), (32, 64), (8, 1024), 64, ((25, 32), (50, 64)), 1.5)
QUICK = Plan(((32, 200), (4, 512)), (64,), (4, 512), 64, ((25, 32), (50, 64)), 0.1)


def benchmark(op: Op, module: str, doc: str | None) -> None:
    """The command line of an op's benchmark."""
    options = parse(module, doc)
    plan = QUICK if options.quick else FULL
    measured_on = machine(tuple(_DTYPES), plan.seconds)
    print_machine(measured_on)
    print(DRAWN)
    print(_LEGEND)
    rows = measure(op, plan, measured_on["matmul_gflops"])
    if options.json:
        write_json(options.json, measured_on, rows)


def measure(op: Op, plan: Plan, peaks: Mapping[str, float]) -> list[Row]:
    """Prints all tables.

    Args:
        op: what is measured.
        plan: on what.
        peaks: GFLOP/s of torch.matmul by name of dtype.
    """
    return [
        *_measure_against_padded(op, plan, peaks),
        *_measure_masks(op, plan),
        *_measure_biases(op, plan),
        *_measure_odd_widths(op, plan),
        *_measure_checks(op, plan),
    ]


def _measure_against_padded(op: Op, plan: Plan, peaks: Mapping[str, float]) -> list[Row]:
    print(f"\n{op.name}, causal, against padded attention: ms (how many times faster ours is)")
    for other in op.contestants:
        if not other.same_function:
            print(f"{other.name} is another function: its result is not compared")
    columns = {"dtype": 5, "B, N": 7, "D": 2, "pass": 7, "ours": 8}
    columns |= {other.name: 16 for other in op.contestants}
    table = Table(columns | {"of peak": 7, "difference": 7, "to fp32": 7})
    rows: list[Row] = []
    for dtype, batch, width in itertools.product(_DTYPES, plan.batches, plan.widths):
        inputs = draw_inputs(*batch, width, dtype)
        for backward in _PASSES:
            rows += _compare(op, inputs, backward, peaks[dtype_name(dtype)], plan.seconds, table)
    return rows


def _compare(
    op: Op, inputs: AttentionInputs, backward: bool, peak: float, seconds: float, table: Table
) -> list[Row]:
    """Measures one case; prints it and returns it as rows for the JSON file."""
    case, first = _case(inputs, backward), op.contestants[0]
    calls = {
        name: functools.partial(run, attend, inputs, backward)
        for name, attend in [(op.name, op.attend), *(other[:2] for other in op.contestants)]
    }
    results = {name: call() for name, call in calls.items()}
    differences = {
        other.name: _checked_difference(results[op.name], results[other.name], case)
        for other in op.contestants
        if other.same_function
    }
    to_float32 = differences[first.name]
    if inputs.q.dtype is not torch.float32:
        exact = run(first.attend, inputs.to(torch.float32), backward)
        to_float32 = _checked_difference(results[op.name], exact, case)
    others = best_milliseconds(calls, seconds)
    ours = others.pop(op.name)
    share = useful_flops(inputs, backward) / (ours * 1e6) / peak
    table.row(
        _DTYPES[inputs.q.dtype],
        f"{case['num_rows']}, {case['max_seq_len']}",
        str(case["width"]),
        _PASSES[backward],
        f"{ours:.2f}",
        *(f"{time:.2f} ({time / ours:.1f}x)" for time in others.values()),
        f"{share:.1%}",
        f"{max(differences.values()):.1e}",
        f"{to_float32:.1e}",
    )
    return [
        *(
            compared(f"{op.name} against {name}, ms", case, ours, time, differences.get(name))
            for name, time in others.items()
        ),
        figure(f"{op.name}, share of the matmul peak", case, share),
        figure(f"{op.name}, difference from padded float32", case, to_float32),
    ]


def _measure_masks(op: Op, plan: Plan) -> list[Row]:
    causal = draw_inputs(*plan.batch, plan.width, torch.float32)
    others = {
        name: dataclasses.replace(causal, spans=spans)
        for name, spans in draw_masks(causal.offsets).items()
    }
    print(f"\n{op.name}, masks: cost is the time of a visible pair against causal's")
    return _measure_cost(op, "mask", [{"causal": causal, **others}], plan.seconds)


def _measure_biases(op: Op, plan: Plan) -> list[Row]:
    without = draw_inputs(*plan.batch, plan.width, torch.float32)
    others = {
        name: dataclasses.replace(without, bias=bias) for name, bias in draw_biases(without).items()
    }
    print(f"\n{op.name}, biases, causal: cost is the time against that without bias")
    return _measure_cost(op, "bias", [{"none": without, **others}], plan.seconds)


def _measure_odd_widths(op: Op, plan: Plan) -> list[Row]:
    groups = [
        {width: draw_inputs(*plan.batch, width, dtype) for width in (regular, odd)}
        for dtype, (odd, regular) in itertools.product(_DTYPES, plan.odd_widths)
    ]
    print(f"\n{op.name}, widths, causal: cost is the time of a useful FLOP against the regular one")
    return _measure_cost(op, "width", groups, plan.seconds)


def _measure_cost(
    op: Op, what: str, groups: Sequence[Mapping[Any, AttentionInputs]], seconds: float
) -> list[Row]:
    """The time of a useful FLOP of each variant against that of the first of its group.

    Variants take turns; each is checked against the oracle in float64.
    """
    table = Table({"dtype": 5, what: 32, "pass": 7, "ms": 8, "cost": 6, "difference": 7})
    rows = []
    for variants, backward in itertools.product(groups, _PASSES):
        calls = {
            name: functools.partial(run, op.attend, inputs, backward)
            for name, inputs in variants.items()
        }
        differences = {
            name: _checked_difference(
                calls[name](),
                run(op.reference, inputs.to(torch.float64), backward),
                _case(inputs, backward) | {what: name},
            )
            for name, inputs in variants.items()
        }
        times = best_milliseconds(calls, seconds)
        per_flop = {
            name: times[name] / useful_flops(inputs, backward) for name, inputs in variants.items()
        }
        first = next(iter(variants))
        for name, inputs in variants.items():
            cost = per_flop[name] / per_flop[first]
            table.row(
                _DTYPES[inputs.q.dtype],
                str(name),
                _PASSES[backward],
                f"{times[name]:.2f}",
                f"{cost:.2f}",
                f"{differences[name]:.1e}",
            )
            case = _case(inputs, backward) | {what: name}
            rows.append(figure(f"{op.name}, {what}: cost against {first}", case, cost))
    return rows


def _measure_checks(op: Op, plan: Plan) -> list[Row]:
    """Bounds the share of a forward call that goes into checking its arguments.

    Checks read offsets and spans. With as many of them, but one narrow head and every query seeing
    itself alone, a call has little to do but check, so it takes at least as long as the checks do.
    """
    print(f"\n{op.name}, checks: a call that has next to nothing to attend to, of a causal one")
    table = Table({"dtype": 5, "B, N": 7, "D": 2, "pass": 7, "idle ms": 8, "ms": 8, "at most": 7})
    rows = []
    for dtype, width in itertools.product(_DTYPES, plan.widths):
        inputs = draw_inputs(*plan.batches[0], width, dtype)
        calls = {
            "idle": functools.partial(run, op.attend, idle(inputs), False),
            "causal": functools.partial(run, op.attend, inputs, False),
        }
        for warm_up in calls.values():
            warm_up()
        times = best_milliseconds(calls, plan.seconds)
        share = times["idle"] / times["causal"]
        case = _case(inputs, False)
        table.row(
            _DTYPES[dtype],
            f"{case['num_rows']}, {case['max_seq_len']}",
            str(width),
            _PASSES[False],
            f"{times['idle']:.3f}",
            f"{times['causal']:.3f}",
            f"{share:.1%}",
        )
        rows.append(figure(f"{op.name}, share of checks at most", case, share))
    return rows


def _checked_difference(ours: Sequence[Tensor], other: Sequence[Tensor], case: Row) -> float:
    difference = largest_difference(ours, other)
    if not difference <= LARGEST_DIFFERENCE[ours[0].dtype]:
        raise RuntimeError(f"results differ by {difference:.1e} of the largest value: {case}")
    return difference


def _case(inputs: AttentionInputs, backward: bool) -> Row:
    return {
        "dtype": dtype_name(inputs.q.dtype),
        "num_rows": len(inputs.offsets) - 1,
        "max_seq_len": inputs.max_seq_len,
        "num_heads": NUM_HEADS,
        "width": inputs.q.shape[2],
        "pass": "forward + backward" if backward else "forward",
    }
