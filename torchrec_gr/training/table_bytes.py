"""The memory that tables take in training, and what to say where there is too little."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping

import torch
from torch import Tensor
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

_FLOAT = torch.float32.itemsize
_LARGEST = 3
"""So many tables are named."""


def row_bytes(weight: Tensor) -> int:
    """What a row takes in training: its numbers, and what its optimizer keeps beside them.

    Args:
        weight: [rows, dim] of an unsharded table, with its fused optimizer, if it has one.
    """
    return _row_bytes(weight, getattr(weight, "_optimizer_classes", [None])[0])


def _row_bytes(weight: Tensor, optimizer: type[torch.optim.Optimizer] | None) -> int:
    dim = weight.shape[1]
    state = {
        torch.optim.SGD: 0,
        RowWiseAdagrad: 1,
        torch.optim.Adagrad: dim,
        None: 3 * dim,  # dense AdamW: a gradient and two moments of every row
    }
    return dim * weight.element_size() + _FLOAT * state.get(optimizer, 2 * dim)


def bytes_each(weights: Mapping[str, Tensor], num_processes: int) -> int:
    """What the fullest of so many processes holds where every table is sharded row-wise."""
    return sum(
        math.ceil(weight.shape[0] / num_processes) * row_bytes(weight)
        for weight in weights.values()
    )


def shortage(weights: Mapping[str, Tensor], num_processes: int, limit: int) -> str:
    """Says how much memory is missing for tables, and what would help.

    Args:
        weights: of all tables, by name, with their optimizers.
        num_processes: over which they would be sharded row-wise.
        limit: bytes of tables that each process may hold, fewer than it would have to.
    """
    total, each = bytes_each(weights, 1), bytes_each(weights, num_processes)
    taken = {name: weight.shape[0] * row_bytes(weight) for name, weight in weights.items()}
    largest = [
        f"{name!r} ({weights[name].shape[0]:,} x {weights[name].shape[1]}) {size(taken[name])}"
        for name in sorted(taken, key=lambda name: -taken[name])[:_LARGEST]
    ]
    return (
        f"the tables do not fit into memory. Their rows and optimizer state take {size(total)} in "
        f"all: sharded row-wise, {size(each)} on each process of {num_processes}. A process may "
        f"hold {size(limit)} of tables, all of them {size(num_processes * limit)}: "
        f"{size(each - limit)} a process are missing, {size(num_processes * (each - limit))} in "
        f"all. The largest tables: {', '.join(largest)}. What would help:\n  - "
        + "\n  - ".join(_remedies(weights, total, limit, limit / each))
    )


def _remedies(weights: Mapping[str, Tensor], total: int, limit: int, share: float) -> list[str]:
    remedies = []
    enough = _enough_processes(weights, total, limit)
    if enough is not None:
        remedies.append(
            f"{enough} processes with as much memory each (on one machine they share what it has)"
        )
    for name, optimizer in (("rowwise_adagrad", RowWiseAdagrad), ("sgd", torch.optim.SGD)):
        least = sum(
            weight.shape[0] * min(row_bytes(weight), _row_bytes(weight, optimizer))
            for weight in weights.values()
        )
        if least < total:
            remedies.append(f"the table optimizer {name!r}: {size(least)} in all")
    return [
        *remedies,
        f"fewer rows or narrower ones: {share:.2g} of these numbers fit",
        "for ids without end, a multi-hash table or a dynamic table with a budget `max_rows`, from "
        "torchrec_gr.embeddings",
        "a higher `max_table_bytes`, where more memory than that is free",
    ]


def _enough_processes(weights: Mapping[str, Tensor], total: int, limit: int) -> int | None:
    """The fewest processes over which the tables fit; None where no number is enough."""
    spare = limit - sum(row_bytes(weight) for weight in weights.values())
    if spare <= 0:
        return None
    surely = math.ceil(total / spare)
    return 1 + bisect_left(
        range(1, surely + 1), True, key=lambda count: bytes_each(weights, count) <= limit
    )


def size(num_bytes: int) -> str:
    """A number of bytes to be read: "3.4 GB"."""
    for unit, one in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= one:
            return f"{num_bytes / one:.1f} {unit}"
    return f"{num_bytes} bytes"
