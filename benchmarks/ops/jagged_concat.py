"""How fast jagged_concat and jagged_split are: against the same by index, in PyTorch's ops.

    python -m benchmarks.ops.jagged_concat

Rows join a history of up to N tokens and up to N / 10 candidates, lengths uniform, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.measure import (
    Row,
    Table,
    best_milliseconds,
    compared,
    largest_difference,
    machine,
    parse,
    print_machine,
    write_json,
)
from torchrec_gr.ops.jagged_concat import (
    concat_by_index,
    jagged_concat,
    jagged_split,
    split_by_index,
)

FULL = ((512, 200, 64), (512, 200, 256), (32, 4096, 64), (10_000, 20, 64))
QUICK = ((512, 200, 64), (10_000, 20, 16))


class Inputs(NamedTuple):
    """a [Ta, D] and b [Tb, D], joined as values [Ta + Tb, D]."""

    a: Tensor
    b: Tensor
    values: Tensor
    a_offsets: Tensor
    b_offsets: Tensor


def draw_inputs(num_rows: int, longest: int, width: int) -> Inputs:
    """Random rows of one batch."""
    draw = torch.Generator().manual_seed(0)

    def offsets(longest: int) -> Tensor:
        lengths = torch.randint(0, longest + 1, (num_rows,), generator=draw)
        return torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])

    a_offsets, b_offsets = offsets(longest), offsets(longest // 10)
    a, b = (torch.randn(int(o[-1]), width, generator=draw) for o in (a_offsets, b_offsets))
    return Inputs(a, b, jagged_concat(a, b, a_offsets, b_offsets), a_offsets, b_offsets)


Run = Callable[[Inputs], tuple[Tensor, ...]]


def concat(x: Inputs) -> tuple[Tensor, ...]:
    return (jagged_concat(x.a, x.b, x.a_offsets, x.b_offsets),)


def concat_in_pytorch(x: Inputs) -> tuple[Tensor, ...]:
    return (concat_by_index(x.a, x.b, x.a_offsets, x.b_offsets),)


def split(x: Inputs) -> tuple[Tensor, ...]:
    return jagged_split(x.values, x.a_offsets, x.b_offsets, num_a=len(x.a))


def split_in_pytorch(x: Inputs) -> tuple[Tensor, ...]:
    return split_by_index(x.values, x.a_offsets, x.b_offsets, len(x.a))


OPS: dict[str, tuple[Run, Run]] = {
    "jagged_concat": (concat, concat_in_pytorch),
    "jagged_split": (split, split_in_pytorch),
}


def measure(cases: Sequence[tuple[int, int, int]], seconds: float) -> list[Row]:
    """Prints the table; no time before the results are found equal."""
    print("\nms (how many times faster ours is); the gradient of each op is the other")
    columns = {"": 13, "B, N": 11, "D": 3, "tokens": 6, "ours": 7, "a copy": 7}
    table = Table(columns | {"by index": 16, "difference": 10})
    rows = []
    for (num_rows, longest, width), (name, (ours, by_index)) in product(cases, OPS.items()):
        inputs = draw_inputs(num_rows, longest, width)
        difference = largest_difference(ours(inputs), by_index(inputs))
        if difference != 0:
            raise AssertionError(f"{name} and its form by index differ by {difference}")
        contestants: dict[str, Callable[[], object]] = {
            "ours": partial(ours, inputs),
            "by index": partial(by_index, inputs),
            "a copy": inputs.values.clone,
        }
        times = best_milliseconds(contestants, seconds)
        table.row(
            name,
            f"{num_rows}, {longest}",
            f"{width}",
            f"{len(inputs.values)}",
            f"{times['ours']:.2f}",
            f"{times['a copy']:.2f}",
            f"{times['by index']:.2f} ({times['by index'] / times['ours']:.1f}x)",
            f"{difference:g}",
        )
        against = f"{name} against its form by index"
        case = {"rows": num_rows, "longest": longest, "width": width}
        rows.append(compared(against, case, times["ours"], times["by index"], difference))
    return rows


if __name__ == "__main__":
    options = parse("benchmarks.ops.jagged_concat", __doc__)
    measured_on = machine((), 0.0)
    print_machine(measured_on)
    measured = measure(QUICK, 0.1) if options.quick else measure(FULL, 1.0)
    if options.json:
        write_json(options.json, measured_on, measured)
