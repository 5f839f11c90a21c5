"""Which row an id of fixed tables has: a map that only reads."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrec_gr.embeddings.id_slots import ROW_BITS
from torchrec_gr.ops import id_map_find, id_map_insert_

_SMALLEST_MAP = 16


class IdRows:
    """Numbers the ids of each of several tables from 1 on, in their order; 0 is for all others.

    Args:
        ids: [n] int64, of any value; those of a table different from each other. Kept, not copied.
        offsets: [tables + 1] int64: table t's ids are ids[offsets[t]:offsets[t + 1]].
    """

    def __init__(self, ids: Tensor, offsets: Tensor) -> None:
        chunks = [part.split(1 << ROW_BITS) for part in ids.tensor_split(offsets[1:-1])]
        self._chunk_ids = [chunk for part in chunks for chunk in part]
        self._chunk_tables = [table for table, part in enumerate(chunks) for _ in part]
        first_chunks = torch.tensor([0, *(len(part) for part in chunks[:-1])]).cumsum(0)
        self._first_slots = first_chunks << ROW_BITS
        capacity = _SMALLEST_MAP
        while len(ids) > capacity * 3 // 4:
            capacity *= 2
        self._entries = torch.zeros(capacity, dtype=torch.int64)
        firsts = self._first_slots - offsets[:-1]
        slots = torch.arange(len(ids)) + firsts.repeat_interleave(offsets.diff())
        id_map_insert_(self._entries, self._chunk_ids, self._chunk_tables, ids, offsets, slots)

    def find(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """[n] int64 the rows of ids [n], table by table as offsets [tables + 1] say."""
        slots = id_map_find(self._entries, self._chunk_ids, self._chunk_tables, ids, offsets)
        firsts = self._first_slots.repeat_interleave(offsets.diff(), output_size=ids.shape[0])
        return torch.where(slots < 0, 0, slots - firsts + 1)

    @property
    def num_bytes(self) -> int:
        """Of the map, beside the ids."""
        return self._entries.nbytes
