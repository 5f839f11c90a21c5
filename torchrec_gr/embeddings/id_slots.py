"""Which slot an id has, for several tables that share one map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from torchrec_gr.ops import (
    id_map_find,
    id_map_grow,
    id_map_insert_,
    id_map_remove_,
    rows_to_evict,
    touch_rows_,
)

ROW_BITS = 16
"""A slot is chunk << ROW_BITS | row in the chunk."""
_SMALLEST_CHUNK = 1024
_LARGEST_CHUNK = 1 << ROW_BITS


class IdSlots:
    """Slots for the ids of several tables, with the count and the last step of each id.

    A slot is a place in a chunk; a chunk belongs to one table and never moves. Values that go with
    the ids are kept by whoever needs them, one tensor a chunk.

    Args:
        budgets: of each table, how many places it is to have at most; None: any number.
    """

    def __init__(self, budgets: Sequence[int | None]) -> None:
        self.entries = torch.zeros(_SMALLEST_CHUNK, dtype=torch.int64)
        self.chunk_ids: list[Tensor] = []
        self.chunk_seen: list[Tensor] = []
        self.chunk_tables: list[int] = []
        self.num_removals = 0
        self._budgets = list(budgets)
        self._free = [torch.empty(0, dtype=torch.int64) for _ in budgets]
        self._num_places = [0 for _ in budgets]

    def num_ids(self, table: int) -> int:
        """How many ids of a table have a slot."""
        return self._num_places[table] - len(self._free[table])

    def num_free(self, table: int) -> int:
        """How many ids of a table would find a slot without a further chunk."""
        return len(self._free[table])

    def chunks_of(self, table: int) -> list[int]:
        """The numbers of a table's chunks."""
        return [chunk for chunk, of in enumerate(self.chunk_tables) if of == table]

    def find(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """[n] the slots of ids [n], table by table as offsets [tables + 1] say; -1: it has none."""
        return id_map_find(self.entries, self.chunk_ids, self.chunk_tables, ids, offsets)

    def insert(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """[n] the slots that ids [n] get, different from each other and without one so far."""
        needed = offsets.diff().tolist()
        slots = torch.cat([self._take(table, num) for table, num in enumerate(needed)])
        self._grow_map(sum(self.num_ids(table) for table in range(len(needed))))
        id_map_insert_(self.entries, self.chunk_ids, self.chunk_tables, ids, offsets, slots)
        return slots

    def touch(self, slots: Tensor, counts: Tensor, step: int) -> Tensor:
        """Counts the ids of slots [n] and notes the step; [n] their counts now, 0 for -1."""
        return touch_rows_(self.chunk_seen, slots, counts, step)

    def oldest(self, table: int, num: int, policy: str, step: int) -> Tensor:
        """Slots of at most `num` ids that go first, of those last seen before `step`."""
        chunks = self.chunks_of(table)
        return rows_to_evict(self.chunk_ids, self.chunk_seen, chunks, num, policy, step)

    def num_last_seen_before(self, table: int, step: int) -> int:
        """How many ids of a table were last seen before a step."""
        seen = (self.chunk_seen[chunk] for chunk in self.chunks_of(table))
        return sum(int(((s[:, 0] > 0) & (s[:, 1] < step)).sum()) for s in seen)

    def remove(self, slots: Tensor) -> Tensor:
        """Frees slots [n], different from each other; [n] the ids that had them, chunk by chunk."""
        self.num_removals += 1
        id_map_remove_(self.entries, self.chunk_ids, self.chunk_tables, slots)
        ids = [torch.empty(0, dtype=torch.int64)]
        for chunk, rows, places in by_chunk(slots):
            self.chunk_seen[chunk][rows] = 0
            ids.append(self.chunk_ids[chunk][rows])
            table = self.chunk_tables[chunk]
            self._free[table] = torch.cat([slots[places], self._free[table]])
        return torch.cat(ids)

    def clear(self, table: int) -> None:
        """Frees all slots of a table."""
        for chunk in self.chunks_of(table):
            used = torch.nonzero(self.chunk_seen[chunk][:, 0]).squeeze(1)
            self.remove(used + (chunk << ROW_BITS))

    def num_bytes(self, table: int) -> int:
        """Of a table's chunks, and its share of the map by its places."""
        chunks = self.chunks_of(table)
        own = sum(self.chunk_ids[c].nbytes + self.chunk_seen[c].nbytes for c in chunks)
        share = self._num_places[table] / max(1, sum(self._num_places))
        return own + round(self.entries.nbytes * share)

    def _take(self, table: int, num: int) -> Tensor:
        while len(self._free[table]) < num:
            self._add_chunk(table)
        taken, self._free[table] = self._free[table][:num], self._free[table][num:]
        return taken

    def _add_chunk(self, table: int) -> None:
        """Doubles a table's places, within the sizes of a chunk and the table's budget."""
        places, budget = self._num_places[table], self._budgets[table]
        size = min(max(places, _SMALLEST_CHUNK), _LARGEST_CHUNK)
        if budget is not None and places < budget:  # rows that were loaded may exceed it
            size = min(size, budget - places)
        first = len(self.chunk_ids) << ROW_BITS
        self.chunk_ids.append(torch.empty(size, dtype=torch.int64))
        self.chunk_seen.append(torch.zeros(size, 2, dtype=torch.int32))
        self.chunk_tables.append(table)
        self._free[table] = torch.cat([self._free[table], torch.arange(first, first + size)])
        self._num_places[table] = places + size

    def _grow_map(self, num_ids: int) -> None:
        capacity = len(self.entries)
        while num_ids > capacity * 3 // 4:
            capacity *= 2
        if capacity > len(self.entries):
            self.entries = id_map_grow(self.entries, capacity)


def by_chunk(slots: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each chunk that slots [n] lie in: its number, the rows, their places among the slots."""
    order = torch.argsort(slots, stable=True)
    chunks, sizes = torch.unique_consecutive(slots[order] >> ROW_BITS, return_counts=True)
    places = torch.split(order, sizes.tolist())
    for chunk, where in zip(chunks.tolist(), places, strict=True):
        yield chunk, slots[where] & ((1 << ROW_BITS) - 1), where
