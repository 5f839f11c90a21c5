"""How fast group_requests is: against torch.unique on padded rows, and against a Python dict.

    python -m benchmarks.ops.group_requests

Rows are histories of random users, each of whom comes about 16 times; lengths are uniform.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.measure import (
    Row,
    Table,
    best_milliseconds,
    compared,
    machine,
    parse,
    print_machine,
    write_json,
)
from torchrec_gr.ops.group_requests import group_requests

Group = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

NUM_IDS = 10**9
ROWS_A_USER = 16
FULL = ((512, 200), (10_000, 200), (100_000, 50))
QUICK = ((512, 200), (4096, 100))


def draw_log(num_rows: int, longest: int) -> tuple[Tensor, Tensor]:
    """Rows that repeat: values [T] int64 and offsets [num_rows + 1] int64."""
    draw = torch.Generator().manual_seed(0)
    num_users = num_rows // ROWS_A_USER
    histories = torch.randint(0, NUM_IDS, (num_users, longest), generator=draw)
    lengths = torch.randint(0, longest + 1, (num_users,), generator=draw)
    users = torch.randint(0, num_users, (num_rows,), generator=draw)
    values = histories[users][torch.arange(longest) < lengths[users][:, None]]
    return values, torch.cat([torch.zeros(1, dtype=torch.int64), lengths[users].cumsum(0)])


def group_by_unique(values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The same by torch.unique, which sorts padded rows; its groups come in sorted order."""
    lengths = offsets.diff()
    padded = values.new_full((len(lengths), int(lengths.max())), -1)
    padded[torch.arange(padded.shape[1]) < lengths[:, None]] = values
    unique, sorted_inverse = torch.unique(padded, dim=0, return_inverse=True)
    num_rows = len(lengths)
    first = torch.full((len(unique),), num_rows).scatter_reduce(
        0, sorted_inverse, torch.arange(num_rows), "amin"
    )
    requests, order = first.sort()
    return requests, order.argsort()[sorted_inverse]


def group_by_dict(values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The same by a dict of the rows' bytes, the fastest in plain Python."""
    ids = values.numpy()
    groups: dict[bytes, int] = {}
    requests: list[int] = []
    inverse = []
    for row, (first, last) in enumerate(itertools.pairwise(offsets.tolist())):
        group = groups.setdefault(ids[first:last].tobytes(), len(groups))
        if group == len(requests):
            requests.append(row)
        inverse.append(group)
    return torch.tensor(requests), torch.tensor(inverse)


OTHERS: dict[str, Group] = {"torch.unique": group_by_unique, "Python dict": group_by_dict}


def measure(cases: Sequence[tuple[int, int]], seconds: float) -> list[Row]:
    """Prints the table; no time before the groups are found equal."""
    print("\ngroup_requests: ms (how many times faster ours is)")
    columns = {"rows": 7, "groups": 6, "ids": 8, "ours": 7, "ns an id": 8}
    table = Table(columns | dict.fromkeys(OTHERS, 16))
    rows = []
    for num_rows, longest in cases:
        log = draw_log(num_rows, longest)
        requests, inverse = group_requests(*log)
        for name, group in OTHERS.items():
            if not all(map(torch.equal, (requests, inverse), group(*log))):
                raise AssertionError(f"{name} groups {num_rows} rows in another way")
        contestants = {"ours": partial(group_requests, *log)}
        contestants |= {name: partial(group, *log) for name, group in OTHERS.items()}
        times = best_milliseconds(contestants, seconds)
        ours, num_ids = times["ours"], len(log[0])
        table.row(
            f"{num_rows}",
            f"{len(requests)}",
            f"{num_ids}",
            f"{ours:.2f}",
            f"{1e6 * ours / num_ids:.1f}",
            *(f"{times[name]:.1f} ({times[name] / ours:.1f}x)" for name in OTHERS),
        )
        case = {"rows": num_rows, "longest": longest, "ids": num_ids, "groups": len(requests)}
        rows += [
            compared(f"group_requests against {name}", case, ours, times[name], difference=0.0)
            for name in OTHERS
        ]
    return rows


if __name__ == "__main__":
    options = parse("benchmarks.ops.group_requests", __doc__)
    measured_on = machine((), 0.0)
    print_machine(measured_on)
    measured = measure(QUICK, 0.1) if options.quick else measure(FULL, 1.0)
    if options.json:
        write_json(options.json, measured_on, measured)
