"""A table that grows: the longest step, and the most memory against that of its rows.

A process of its own trains a table of width 64 on batches of ids that were never seen, until it has
sixteen times the rows that it had. Memory is the process's largest resident set while it grew, less
what was resident before the table was there, gradients and all.
"""

from __future__ import annotations

import multiprocessing
import re
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.embeddings.tables import Reader, Tables
from benchmarks.embeddings.traffic import raw_ids
from benchmarks.embeddings.training_step import OPTIMIZER, train
from benchmarks.measure import Row, Table, figure
from torchrec_gr.embeddings.dynamic_table import dynamic_tables
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import shard

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_FLOAT_BYTES = 4


class Plan(NamedTuple):
    """From how many rows to how many, ids a step, and width."""

    first_rows: int
    last_rows: int
    batch_size: int
    width: int = 64


FULL = Plan(1_000_000, 16_000_000, 25_000)
QUICK = Plan(100_000, 800_000, 10_000)


class Growth(NamedTuple):
    """What growing came to.

    Args:
        longest, median: seconds of a step from `first_rows` rows on.
        peak_bytes: added to the process.
        num_rows: that live in the end.
        row_bytes: their weights and optimizer state.
    """

    longest: float
    median: float
    peak_bytes: int
    num_rows: int
    row_bytes: int


def measure(plan: Plan) -> list[Row]:
    """Prints the table."""
    print("\na table that grows, row-wise Adagrad, all ids new")
    table = Table(
        {"rows": 24, "width": 5, "batch": 6, "longest step": 12, "median step": 12, "memory": 9}
        | {"rows' own": 9, "times": 6}
    )
    fresh = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with fresh:
        growth = fresh.submit(grow, plan, torch.get_num_threads()).result()
    times = growth.peak_bytes / growth.row_bytes
    table.row(
        f"{plan.first_rows:,} to {plan.last_rows:,}",
        f"{plan.width}",
        f"{plan.batch_size}",
        f"{growth.longest:.3f} s",
        f"{growth.median:.3f} s",
        f"{growth.peak_bytes / 1e9:.2f} GB",
        f"{growth.row_bytes / 1e9:.2f} GB",
        f"{times:.2f}",
    )
    case = plan._asdict()
    return [
        figure("growth_pause_seconds", case, growth.longest),
        figure("growth_median_step_seconds", case, growth.median),
        figure("growth_peak_memory", case, times),
    ]


def grow(plan: Plan, num_threads: int) -> Growth:
    """Trains a table of new ids alone. To be run in a process that has done nothing else."""
    torch.set_num_threads(num_threads)
    tables = Tables("sequences", 1, plan.width)
    seconds: list[float] = []
    with process_group("cpu") as device:
        model = shard(Reader(tables.dynamic()), device=device, table_optimizer=OPTIMIZER)
        resident = reset_peak_bytes()
        for first in range(0, plan.last_rows, plan.batch_size):
            batch = _new_ids(tables, first, min(first + plan.batch_size, plan.last_rows))
            began = perf_counter()
            train(model, [batch])
            if first >= plan.first_rows:
                seconds.append(perf_counter() - began)
        peak = peak_bytes() - resident
        num_rows = sum(table.report().rows for table in dynamic_tables(model).values())
    row_bytes = num_rows * (plan.width + 1) * _FLOAT_BYTES
    return Growth(max(seconds), statistics.median(seconds), peak, num_rows, row_bytes)


def reset_peak_bytes() -> int:
    """Lets `peak_bytes` start anew; what is resident now."""
    _CLEAR_REFS.write_text(_RESET_PEAK, encoding="utf-8")
    return _status_bytes("VmRSS")


def peak_bytes() -> int:
    """The most that this process had resident since `reset_peak_bytes`."""
    return _status_bytes("VmHWM")


def _status_bytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise RuntimeError(f"{_STATUS} says nothing of {field}: memory is measured on Linux alone")
    return int(found[1]) << 10


def _new_ids(tables: Tables, first: int, last: int) -> KeyedJaggedTensor:
    ids = raw_ids(torch.arange(first, last))
    return KeyedJaggedTensor(tables.keys, ids, lengths=torch.ones_like(ids))
