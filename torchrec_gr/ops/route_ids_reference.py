"""Which process owns an id, as it is defined."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrec_gr.ops.mix_reference import hash_id

_SALT = int.from_bytes(b"owner", "big")


def owner(id_: int, num_owners: int) -> int:
    """The owner of an id: its hash scaled to the number of owners."""
    return hash_id(id_, _SALT) * num_owners >> 64


def route_ids_reference(ids: Tensor, offsets: Tensor, num_owners: int) -> tuple[Tensor, Tensor]:
    """The oracle of `route_ids`: a sort."""
    num_tables = len(offsets) - 1
    tables = torch.arange(num_tables).repeat_interleave(offsets.diff()).tolist()
    groups = [
        owner(id_, num_owners) * num_tables + table
        for id_, table in zip(ids.tolist(), tables, strict=True)
    ]
    order = sorted(range(len(groups)), key=groups.__getitem__)
    lengths = [groups.count(group) for group in range(num_owners * num_tables)]
    return torch.tensor(order, dtype=torch.int64), torch.tensor(lengths, dtype=torch.int64)
