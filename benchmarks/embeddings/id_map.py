"""Ids mapped per second: by the slot map, by TorchRec's managed collision, by a Python dict.

All ids are resident. The slot map and managed collision also count what they meet: unique, find
and count of each batch, against profile and remap. Managed collision takes in what it met, and
sorts all its ids, once in so many batches (its `eviction_interval`); the slot map does so with
every batch, as managed collision does at an interval of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torchrec.modules.mc_modules import LFU_EvictionPolicy, MCHManagedCollisionModule
from torchrec.sparse.jagged_tensor import JaggedTensor

from benchmarks.embeddings.traffic import DRAWN, raw_ids, zipf_ranks
from benchmarks.measure import Row, Table, best_milliseconds, compared, figure
from torchrec_gr.embeddings.id_slots import IdSlots
from torchrec_gr.ops import unique_ids


class Plan(NamedTuple):
    """What is measured, and for how long.

    Args:
        cases: resident ids, threads, and the intervals of managed collision.
        num_batches, batch_size: ids that are mapped in one pass.
        seconds: how long to measure each thing.
    """

    cases: Sequence[tuple[int, int, Sequence[int]]]
    num_batches: int
    batch_size: int
    seconds: float


FULL = Plan(
    ((1_000_000, 1, (4, 1, 16)), (1_000_000, 2, (4, 1, 16)), (50_000_000, 1, (16,))),
    num_batches=16,
    batch_size=65_536,
    seconds=2.0,
)
QUICK = Plan(((100_000, 1, (1, 4)), (100_000, 2, (4,))), 4, 16_384, 0.2)


class SlotMap:
    """Ours: one table's ids, in chunks of rows.

    Args:
        ids: [n] int64, all different.
    """

    def __init__(self, ids: Tensor) -> None:
        self.slots = IdSlots([None])
        self.slots.insert(ids, _one_table(ids))
        self._step = 0

    def find(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """The slots of each batch."""
        return [self.slots.find(ids, _one_table(ids)) for ids in batches]

    def count(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """The same, of ids that are counted."""
        return [self._count(ids) for ids in batches]

    def _count(self, ids: Tensor) -> Tensor:
        unique, offsets, inverse, counts = unique_ids(ids, _one_table(ids))
        slots = self.slots.find(unique, offsets)
        self._step += 1
        self.slots.touch(slots, counts, self._step)
        return slots[inverse]


class ManagedCollision:
    """TorchRec's MCHManagedCollisionModule, LFU, with its ids put where it would keep them.

    Args:
        ids: [n] int64, all different.
        interval: batches between two times that it takes its history in.
    """

    def __init__(self, ids: Tensor, interval: int) -> None:
        device = torch.device("cpu")
        self.module = MCHManagedCollisionModule(
            len(ids) + 1, device, LFU_EvictionPolicy(), interval, name="id"
        )
        self.module.get_buffer("_mch_sorted_raw_ids")[:-1] = ids.sort().values

    def find(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """The remapped ids of each batch, by `remap` alone."""
        return [self.module.remap(_feature(ids))["id"].values() for ids in batches]

    def count(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """The same by `profile` and `remap`."""
        return [self.module(_feature(ids))["id"].values() for ids in batches]


class Dict:
    """A Python dict of the ids' numbers."""

    def __init__(self, ids: Tensor) -> None:
        self._number = {raw: number for number, raw in enumerate(ids.tolist())}

    def find(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """The numbers of each batch."""
        return [torch.tensor([*map(self._number.get, ids.tolist())]) for ids in batches]


def measure(plan: Plan) -> list[Row]:
    """Prints the tables; no time before the maps are found to map the same ids."""
    print(f"\nids mapped per second, in millions (how many times faster ours is). {DRAWN}")
    threads = torch.get_num_threads()
    table = Table({"resident": 10, "threads": 7, "ours": 30, "other": 30, "": 16})
    rows = []
    for num_ids, num_threads, intervals in plan.cases:
        torch.set_num_threads(num_threads)
        rows += _measure_case(num_ids, num_threads, intervals, plan, table)
    torch.set_num_threads(threads)
    return rows


def _measure_case(
    num_ids: int, num_threads: int, intervals: Sequence[int], plan: Plan, table: Table
) -> list[Row]:
    """Measures all maps of one size in turns; prints them and returns the rows for the file."""
    ids = raw_ids(torch.randperm(num_ids, generator=torch.Generator().manual_seed(0)))
    draw = torch.Generator().manual_seed(1)
    batches = [raw_ids(zipf_ranks(plan.batch_size, num_ids, draw)) for _ in range(plan.num_batches)]
    ours = SlotMap(ids)
    others = {interval: ManagedCollision(ids, interval) for interval in intervals}
    passes: dict[str, Callable[[], list[Tensor]]] = {
        "find": partial(ours.find, batches),
        "unique, find, count": partial(ours.count, batches),
        "remap": partial(others[intervals[0]].find, batches),
        "dict": partial(Dict(ids).find, batches),
    }
    counted = {every: f"profile + remap, interval {every}" for every in intervals}
    passes |= {name: partial(others[every].count, batches) for every, name in counted.items()}
    for name, map_all in passes.items():
        require_one_to_one(name, batches, map_all())
    for other in others.values():
        require_equal_counts(ours, other, ids)
    times = best_milliseconds(passes, plan.seconds)
    num_mapped = plan.num_batches * plan.batch_size
    rates = {name: 1000 * num_mapped / time for name, time in times.items()}
    case = {"resident": num_ids, "threads": num_threads, "batch_size": plan.batch_size}

    def against(row: str, mine: str, other: str, **more: int) -> Row:
        compared_row = compared(row, case | more, times[mine], times[other], 0.0)
        table.row(
            f"{num_ids:,}",
            f"{num_threads}",
            f"{mine} {rates[mine] / 1e6:.1f}",
            f"{other} {rates[other] / 1e6:.2f}",
            f"{compared_row['ratio']:.1f}x",
        )
        return compared_row

    size = size_name(num_ids)
    return [
        against("slot_map_vs_mch_remap", "find", "remap"),
        *(
            against("slot_map_vs_mch_profile", "unique, find, count", name, interval=every)
            for every, name in counted.items()
        ),
        against("slot_map_vs_dict", "find", "dict"),
        figure(f"slot_map_ids_per_second_{size}", case, rates["find"]),
        figure(f"slot_map_counted_ids_per_second_{size}", case, rates["unique, find, count"]),
    ]


def size_name(num_ids: int) -> str:
    """ "1m" of a million."""
    return f"{num_ids // 1_000_000}m" if num_ids % 1_000_000 == 0 else f"{num_ids}"


def require_one_to_one(name: str, batches: Sequence[Tensor], mapped: Sequence[Tensor]) -> None:
    """Checks that each id has one number and each number one id.

    Raises:
        RuntimeError: it is not so.
    """
    _, inverse = torch.cat([*batches]).unique(return_inverse=True)
    numbers = torch.cat([*mapped])
    number = torch.empty(int(inverse.max()) + 1, dtype=torch.int64)
    number[inverse] = numbers
    if not torch.equal(number[inverse], numbers) or len(number.unique()) != len(number):
        raise RuntimeError(f"{name} does not map each id to a number of its own")


def require_equal_counts(ours: SlotMap, other: ManagedCollision, ids: Tensor) -> None:
    """Checks that both have counted every id alike.

    Raises:
        RuntimeError: they have not.
    """
    slots = ours.slots.find(ids, _one_table(ids))
    counts = torch.cat(ours.slots.chunk_seen)[:, 0]
    first_row = torch.tensor([0, *(len(seen) for seen in ours.slots.chunk_seen)]).cumsum(0)
    by_id = counts[first_row[slots >> 16] + (slots & 0xFFFF)]
    theirs = other.module.get_buffer("_mch_counts")[torch.searchsorted(ids.sort().values, ids)]
    if not torch.equal(by_id.long(), theirs):
        raise RuntimeError("the slot map and managed collision count differently")


def _one_table(ids: Tensor) -> Tensor:
    return torch.tensor([0, len(ids)])


def _feature(ids: Tensor) -> dict[str, JaggedTensor]:
    return {"id": JaggedTensor(ids, lengths=torch.ones_like(ids))}
