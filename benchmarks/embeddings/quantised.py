"""Tables of int8 and int4 rows against the fp32 ones that they were made of: time, memory, error.

Rows are normal. The error is the norm of the difference of what is looked up, relative to the norm
of what fp32 gives. Memory is the tables' own; of a dynamic table also the map from ids to rows.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.embeddings.tables import LookUp, Reader, Tables, kjt_like, looked_up
from benchmarks.embeddings.traffic import DRAWN, raw_ids, scatter_rows, zipf_ranks
from benchmarks.measure import Row, Table, best_milliseconds, compared, figure
from torchrec_gr.embeddings.dynamic_table import dynamic_tables
from torchrec_gr.embeddings.quantised import quantise
from torchrec_gr.embeddings.table_rows import TableRows

LARGEST_ERROR = {8: 0.01, 4: 0.15}
"""No time is printed where what is looked up is further from fp32."""

_NUM_HASHES = 4
_LOOK_UPS: tuple[LookUp, ...] = ("bags", "sequences")


class Plan(NamedTuple):
    """What is measured, and for how long.

    Args:
        num_tables, num_rows, width: of the tables; a multi-hash table has sub-tables of a fourth of
            the width.
        num_values: values of each key in a batch.
        bag_size: of these in each bag, or sequence.
        seconds: how long to measure each thing.
    """

    num_tables: int
    num_rows: int
    width: int
    num_values: int
    bag_size: int
    seconds: float


FULL = Plan(4, 1 << 20, 32, 40_960, 20, 1.0)
QUICK = Plan(2, 1 << 14, 32, 5_120, 20, 0.1)


def measure(plan: Plan) -> list[Row]:
    """Prints the table; no time before what is looked up is found near."""
    print(f"\nquantised tables against fp32 (how many times better). {DRAWN}")
    columns = {"tables": 10, "look-up": 9, "bits": 4, "fp32 ms": 8, "ms": 14, "MB": 15}
    table = Table(columns | {"error": 7})
    rows = []
    for kind, look_up in itertools.product(_KINDS, _LOOK_UPS):
        rows += _measure_kind(kind, look_up, plan, table)
    return rows


def _measure_kind(kind: str, look_up: LookUp, plan: Plan, table: Table) -> list[Row]:
    torch.manual_seed(0)
    tables = Tables(look_up, plan.num_tables, plan.width)
    exact = Reader(_KINDS[kind](tables, plan.num_rows))
    indices = draw_batch(plan, tables.keys)
    kjt = indices if kind == "static" else kjt_like(indices, raw_ids(indices.values()))
    readers: dict[str, nn.Module] = {"fp32": exact}
    reports = {}
    for bits in LARGEST_ERROR:
        readers[f"int{bits}"], reports[bits] = quantise(copy.deepcopy(exact), bits)
    errors = {bits: require_near(readers[f"int{bits}"], exact, kjt, bits) for bits in LARGEST_ERROR}
    reads = {name: partial(looked_up, reader, kjt) for name, reader in readers.items()}
    times = best_milliseconds(reads, plan.seconds)
    case = {"tables": kind, "look_up": look_up} | plan._asdict()
    del case["seconds"]
    rows = []
    for bits, report in reports.items():
        before = sum(converted.bytes_before for converted in report.converted)
        after = sum(converted.bytes_after for converted in report.converted)
        name = f"int{bits}"
        table.row(
            kind,
            look_up,
            f"{bits}",
            f"{times['fp32']:.2f}",
            f"{times[name]:.2f} ({times['fp32'] / times[name]:.1f}x)",
            f"{after / 1e6:.1f} ({before / after:.1f}x)",
            f"{errors[bits]:.4f}",
        )
        rows += [
            compared(f"{name}_time", case, times[name], times["fp32"], errors[bits]),
            compared(f"{name}_memory", case, after, before, None),
            figure(f"{name}_error", case, errors[bits]),
        ]
    return rows


def require_near(
    quantised: nn.Module, exact: nn.Module, kjt: KeyedJaggedTensor, bits: int
) -> float:
    """The error of what is looked up.

    Raises:
        RuntimeError: there is none, or it is larger than it may be.
    """
    ours, right = (torch.cat(looked_up(reader, kjt)) for reader in (quantised, exact))
    error = float((ours - right).norm() / right.norm())
    if not 0 < error <= LARGEST_ERROR[bits]:
        raise RuntimeError(f"int{bits} is {error:.1e} from fp32: {LARGEST_ERROR[bits]} is expected")
    return error


def draw_batch(plan: Plan, keys: Sequence[str]) -> KeyedJaggedTensor:
    """The numbers of Zipf ids, hot ones anywhere in their table."""
    draw = torch.Generator().manual_seed(0)
    ranks = zipf_ranks(plan.num_values * len(keys), plan.num_rows, draw)
    lengths = torch.full((len(keys) * plan.num_values // plan.bag_size,), plan.bag_size)
    return KeyedJaggedTensor(list(keys), scatter_rows(ranks, plan.num_rows), lengths=lengths)


def _static(tables: Tables, num_rows: int) -> nn.Module:
    return tables.stock(num_rows, nn.init.normal_)


def _multi_hash(tables: Tables, num_rows: int) -> nn.Module:
    return tables.multi_hash(num_rows, _NUM_HASHES, nn.init.normal_)


def _dynamic(tables: Tables, num_rows: int) -> nn.Module:
    collection = tables.dynamic()
    none = TableRows.empty(tables.width)
    for table in dynamic_tables(collection).values():
        rows = TableRows(
            ids=raw_ids(torch.arange(num_rows)),
            seen=torch.ones(num_rows, 2, dtype=torch.int32),
            weight=torch.randn(num_rows, tables.width),
            optimizer=none.optimizer,
            waiting_ids=none.waiting_ids,
            waiting_seen=none.waiting_seen,
        )
        table.load_rows(rows)
    return collection


_KINDS: Mapping[str, Callable[[Tables, int], nn.Module]] = {
    "static": _static,
    "multi-hash": _multi_hash,
    "dynamic": _dynamic,
}
