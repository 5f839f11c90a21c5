"""How fast indexed_products is, forward and backward: against the same in PyTorch's ops.

    python -m benchmarks.ops.indexed_products

Each of P vectors meets N of R rows, drawn for it alone; float32. "Gathered" writes the P x N rows
out and multiplies them. "In bags" is PyTorch's embedding_bag turned round: the products are the
gradient of its weights, so nothing is written out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
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
from torchrec_gr.ops import indexed_products

FULL = ((14_000, 128, 50, 3_416), (14_000, 128, 64, 100_000), (4_000, 128, 256, 20_000))
QUICK = ((1_000, 128, 50, 3_416),)
TOLERANCE = 1e-4  # of the largest value: sums of thousands of terms in another order


class Inputs(NamedTuple):
    """left [P, D], rows [R, D], their places [P, N] and a gradient [P, N] of the products."""

    left: Tensor
    rows: Tensor
    places: Tensor
    grad: Tensor


def draw_inputs(num_left: int, num: int, dim: int, num_rows: int) -> Inputs:
    """Random vectors and rows."""
    draw = torch.Generator().manual_seed(0)
    left = torch.randn(num_left, dim, generator=draw).requires_grad_()
    rows = torch.randn(num_rows, dim, generator=draw).requires_grad_()
    index = torch.randint(num_rows, (num_left, num), generator=draw)
    return Inputs(left, rows, index, torch.randn(num_left, num, generator=draw))


def ours(x: Inputs) -> tuple[Tensor, ...]:
    """Products, and the gradients of left and rows."""
    products = indexed_products(x.left, x.rows, x.places)
    return products.detach(), *torch.autograd.grad(products, (x.left, x.rows), x.grad)


def gathered(x: Inputs) -> tuple[Tensor, ...]:
    """The same."""
    products = torch.einsum("pd,pnd->pn", x.left, x.rows[x.places])
    return products.detach(), *torch.autograd.grad(products, (x.left, x.rows), x.grad)


def in_bags(x: Inputs) -> tuple[Tensor, ...]:
    """The same: vectors are the gradients of bags, products those of their weights."""
    num_left, num = x.places.shape
    places, bags = x.places.flatten(), torch.arange(0, x.places.numel(), num)
    weights = x.grad.flatten().requires_grad_()
    pooled = torch.nn.functional.embedding_bag(
        places, x.rows, bags, mode="sum", per_sample_weights=weights
    )
    products, of_rows = torch.autograd.grad(pooled, (weights, x.rows), x.left.detach())
    return products.view(num_left, num), pooled.detach(), of_rows


def measure(cases: Sequence[tuple[int, int, int, int]], seconds: float) -> list[Row]:
    """Prints the table; no time before the results are found equal."""
    print("\nms, forward and backward (how many times faster ours is)")
    table = Table(
        {"P": 5, "N": 3, "D": 3, "R": 6, "ours": 7, "gathered": 16, "in bags": 16, "difference": 10}
    )
    rows = []
    others = {"gathered": gathered, "in bags": in_bags}
    for num_left, num, dim, num_rows in cases:
        inputs = draw_inputs(num_left, num, dim, num_rows)
        contestants: dict[str, Callable[[], object]] = {"ours": partial(ours, inputs)}
        difference = 0.0
        for name, other in others.items():
            difference = max(difference, largest_difference(ours(inputs), other(inputs)))
            contestants[name] = partial(other, inputs)
        if not difference < TOLERANCE:
            raise AssertionError(f"results differ by {difference}")
        times = best_milliseconds(contestants, seconds)
        beside = [f"{times[name]:.1f} ({times[name] / times['ours']:.1f}x)" for name in others]
        sizes = (num_left, num, dim, num_rows)
        table.row(*map(str, sizes), f"{times['ours']:.1f}", *beside, f"{difference:.0e}")
        case = dict(zip(("left", "products", "dim", "rows"), sizes, strict=True))
        for name in others:
            against = f"indexed_products against rows {name}"
            rows.append(compared(against, case, times["ours"], times[name], difference))
    return rows


if __name__ == "__main__":
    options = parse("benchmarks.ops.indexed_products", __doc__)
    measured_on = machine((), 0.0)
    print_machine(measured_on)
    measured = measure(QUICK, 0.1) if options.quick else measure(FULL, 1.0)
    if options.json:
        write_json(options.json, measured_on, measured)
