"""Ids that kernels for tables get wrong first, and chunks to put their rows in."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from torchrec_gr.ops.mix_reference import mix

EXTREME_IDS = torch.tensor([0, -1, 1, -(2**63), 2**63 - 1, 2**32, -(2**32), 2**31, 1 << 16])


@st.composite
def id_batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Ids of some tables, extreme and repeated ones among them: ids [n], offsets [T + 1]."""
    any_id = st.one_of(st.sampled_from(EXTREME_IDS.tolist()), st.integers(-(2**63), 2**63 - 1))
    tables = draw(st.lists(st.lists(any_id, max_size=12), max_size=5))
    lengths = torch.tensor([0, *map(len, tables)])
    ids = torch.tensor([id_ for table in tables for id_ in table], dtype=torch.int64)
    return ids, lengths.cumsum(0).to(draw(st.sampled_from([torch.int64, torch.int32])))


def zipf_ids(num_ids: int, seed: int = 0) -> Tensor:
    """[num_ids] raw ids of any value, few of them often and many rarely."""
    draw = torch.Generator().manual_seed(seed)
    ranks = torch.rand(num_ids, generator=draw).mul_(-12).exp_().reciprocal_().long()
    return (ranks * -0x61C8864680B583EB) ^ 0x5DEECE66D


def id_of_hash(hashed: int, table: int) -> int:
    """The id that has this hash, from 0 to 2^64 - 1, in the map's entries of a table."""
    for factor in (0xC4CEB9FE1A85EC53, 0xFF51AFD7ED558CCD):
        hashed = (hashed ^ hashed >> 33) * pow(factor, -1, 2**64) % 2**64
    id_ = hashed ^ hashed >> 33 ^ mix(table + 1)
    return id_ - 2**64 if id_ >= 2**63 else id_


class Chunks:
    """Ids of rows in chunks of some sizes.

    Attributes:
        ids: [r] int64 for each chunk.
        tables: the table of each chunk.
        slots: [rows] int64 for each table, all its slots.
    """

    def __init__(self, sizes: list[int], tables: list[int]) -> None:
        self.ids = [torch.zeros(size, dtype=torch.int64) for size in sizes]
        self.tables = tables
        of_chunk = [(chunk << 16) + torch.arange(size) for chunk, size in enumerate(sizes)]
        self.slots = [
            torch.cat([slots for slots, of in zip(of_chunk, tables, strict=True) if of == table])
            for table in range(max(tables, default=-1) + 1)
        ]
