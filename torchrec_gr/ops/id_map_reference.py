"""The map from ids to slots, as it is defined."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


class IdMapReference:
    """The oracle of the ops on a map: a dictionary of slots by table and id."""

    def __init__(self) -> None:
        self.slots: dict[tuple[int, int], int] = {}

    def find(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """What `id_map_find` returns."""
        found = [self.slots.get(key, -1) for key in _keys(ids, offsets)]
        return torch.tensor(found, dtype=torch.int64)

    def insert(self, ids: Tensor, offsets: Tensor, slots: Tensor) -> None:
        """What `id_map_insert_` does."""
        self.slots.update(zip(_keys(ids, offsets), slots.tolist(), strict=True))

    def remove(self, slots: Tensor) -> None:
        """What `id_map_remove_` does."""
        removed = set(slots.tolist())
        self.slots = {key: slot for key, slot in self.slots.items() if slot not in removed}


def _keys(ids: Tensor, offsets: Tensor) -> Iterator[tuple[int, int]]:
    bounds = offsets.tolist()
    for table in range(len(bounds) - 1):
        for id_ in ids[bounds[table] : bounds[table + 1]].tolist():
            yield table, id_
