"""What the ops on a map from ids to slots refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.ops.embedding_cases import Chunks
from torchrec_gr.ops import id_map_find, id_map_grow, id_map_insert_, id_map_remove_

MAP = torch.zeros(16, dtype=torch.int64)
CHUNKS = Chunks([4, 20], [0, 1])
IDS, ONE_TABLE = torch.arange(3), torch.tensor([0, 3])


@pytest.mark.parametrize(
    ("name", "entries", "chunk_ids", "chunk_tables", "ids", "offsets"),
    [
        ("entries", MAP.int(), CHUNKS.ids, [0, 1], IDS, ONE_TABLE),
        ("entries", torch.zeros(24).long(), CHUNKS.ids, [0, 1], IDS, ONE_TABLE),
        ("entries", torch.zeros(8).long(), CHUNKS.ids, [0, 1], IDS, ONE_TABLE),
        ("entries", torch.zeros(0).long(), CHUNKS.ids, [0, 1], IDS, ONE_TABLE),
        ("entries", torch.zeros(32).long()[::2], CHUNKS.ids, [0, 1], IDS, ONE_TABLE),
        ("entries", MAP[None], CHUNKS.ids, [0, 1], IDS, ONE_TABLE),
        ("chunk_ids", MAP, [torch.zeros(4)], [0], IDS, ONE_TABLE),
        ("chunk_ids", MAP, [torch.zeros(4, 1).long()], [0], IDS, ONE_TABLE),
        ("chunk_ids", MAP, [torch.zeros(8).long()[::2]], [0], IDS, ONE_TABLE),
        ("chunk_ids", MAP, [torch.zeros(65537).long()], [0], IDS, ONE_TABLE),
        ("chunk_ids", MAP, [IDS[:0]] * 65536, [0] * 65536, IDS, ONE_TABLE),
        ("chunk_tables", MAP, CHUNKS.ids, [0], IDS, ONE_TABLE),
        ("chunk_tables", MAP, CHUNKS.ids, [0, -1], IDS, ONE_TABLE),
        ("chunk_tables", MAP, CHUNKS.ids, [0, 2**31], IDS, ONE_TABLE),
        ("ids", MAP, CHUNKS.ids, [0, 1], IDS.int(), ONE_TABLE),
        ("offsets", MAP, CHUNKS.ids, [0, 1], IDS, torch.tensor([0, 2])),
    ],
)
def test_names_the_wrong_argument(
    name: str,
    entries: Tensor,
    chunk_ids: list[Tensor],
    chunk_tables: list[int],
    ids: Tensor,
    offsets: Tensor,
) -> None:
    slots = torch.arange(3)
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        id_map_find(entries, chunk_ids, chunk_tables, ids, offsets)
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        id_map_insert_(entries, chunk_ids, chunk_tables, ids, offsets, slots)
    if name in ("entries", "chunk_ids", "chunk_tables"):
        with pytest.raises(ValueError, match=f"^{name}: expected "):
            id_map_remove_(entries, chunk_ids, chunk_tables, slots)
    assert not MAP.any()


@pytest.mark.parametrize(
    "slots", [[0, 1, 4], [0, 1, -1], [0, 1, 1 << 16], [0, 1, 2 << 16], [0, 1, 2**63 - 1], [0, 1]]
)
def test_slots_outside_of_the_chunks(slots: list[int]) -> None:
    """Row 4 of 4, none, a chunk of another table, chunks that are not there, one too few."""
    with pytest.raises(ValueError, match=r"^slots: expected "):
        id_map_insert_(MAP, CHUNKS.ids, CHUNKS.tables, IDS, ONE_TABLE, torch.tensor(slots))
    with pytest.raises(ValueError, match=r"^slots: expected "):
        id_map_remove_(MAP, CHUNKS.ids, CHUNKS.tables, torch.tensor(slots))
    assert not MAP.any()


@pytest.mark.parametrize("capacity", [0, -16, 16, 8, 24, 2**33])
def test_capacities_that_a_map_cannot_grow_to(capacity: int) -> None:
    with pytest.raises(ValueError, match=r"^capacity: expected "):
        id_map_grow(MAP, capacity)


def test_a_map_that_is_too_full_is_an_error() -> None:
    chunks, entries = Chunks([20], [0]), torch.zeros(16, dtype=torch.int64)
    for first, last in ((0, 12), (12, 13)):
        part = torch.arange(first, last)
        arguments = chunks.ids, [0], part + 100, torch.tensor([0, len(part)]), part
        if last == 12:
            id_map_insert_(entries, *arguments)
        else:
            with pytest.raises(ValueError, match=r"^entries: expected at most 12 of 16 in use"):
                id_map_insert_(entries, *arguments)
    assert int((entries != 0).sum()) == 12


def test_rows_that_the_map_has_not_cannot_be_removed() -> None:
    chunks, entries = Chunks([20], [0]), torch.zeros(16, dtype=torch.int64)
    id_map_insert_(entries, chunks.ids, [0], IDS, ONE_TABLE, torch.arange(3))
    with pytest.raises(ValueError, match=r"^slots: expected rows that the map has, got 7 at 1"):
        id_map_remove_(entries, chunks.ids, [0], torch.tensor([0, 7]))


def test_full_entries_never_loop() -> None:
    """No map comes to this, but a file may."""
    full = torch.full((16,), 5, dtype=torch.int64)
    chunks = Chunks([4], [0])
    assert (id_map_find(full, chunks.ids, [0], IDS + 1, ONE_TABLE) == -1).all()
    with pytest.raises(ValueError, match=r"^slots: expected rows that the map has"):
        id_map_remove_(full, chunks.ids, [0], torch.tensor([0]))
