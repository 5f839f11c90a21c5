"""The map from ids to slots: the ops against a dictionary."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.ops.embedding_cases import EXTREME_IDS, Chunks, id_of_hash
from torchrec_gr.ops import id_map_find, id_map_grow, id_map_insert_, id_map_remove_
from torchrec_gr.ops.id_map_reference import IdMapReference

SIZES, TABLES = [5, 16, 1, 40, 30], [0, 1, 0, 1, 2]
# Few homes, at both ends and so that entries run over the last place; few upper halves of hashes.
HASHES = [
    home << 60 | upper << 32 | lower
    for home in (0, 1, 7, 14, 15)
    for upper in (0, 2**28 - 1)
    for lower in (0, 1, 2**32 - 1)
]


class Map:
    """A map and the dictionary that it must agree with. Every operation is checked."""

    def __init__(self, capacity: int = 16) -> None:
        self.chunks = Chunks(SIZES, TABLES)
        self.entries = torch.zeros(capacity, dtype=torch.int64)
        self.reference = IdMapReference()
        self.free = [set(slots.tolist()) for slots in self.chunks.slots]
        self.num_ids = 0

    def insert(self, tables: list[list[int]]) -> None:
        """Those that are absent, as far as there are rows."""
        new: list[list[int]] = []
        slots: list[int] = []
        for table, ids in enumerate(tables):
            absent = [i for i in dict.fromkeys(ids) if (table, i) not in self.reference.slots]
            new.append(absent[: len(self.free[table])])
            slots += [self.free[table].pop() for _ in new[-1]]
        self.num_ids += len(slots)
        while self.num_ids > len(self.entries) // 4 * 3:
            self.entries = id_map_grow(self.entries, 2 * len(self.entries))
        batch = *_batch(new), torch.tensor(slots, dtype=torch.int64)
        id_map_insert_(self.entries, self.chunks.ids, self.chunks.tables, *batch)
        self.reference.insert(*batch)
        self.check(tables)

    def remove(self, tables: list[list[int]]) -> None:
        """Those that are there."""
        keys = {(table, id_) for table, ids in enumerate(tables) for id_ in ids}
        slots = [self.reference.slots[key] for key in sorted(keys & self.reference.slots.keys())]
        for slot in slots:
            self.free[self.chunks.tables[slot >> 16]].add(slot)
        self.num_ids -= len(slots)
        removed = torch.tensor(slots, dtype=torch.int64)
        id_map_remove_(self.entries, self.chunks.ids, self.chunks.tables, removed)
        self.reference.remove(removed)
        self.check(tables)

    def check(self, tables: list[list[int]]) -> None:
        known: list[list[int]] = [[], [], []]
        for table, id_ in self.reference.slots:
            known[table].append(id_)
        for ids, offsets in (_batch(known), _batch(tables)):
            found = id_map_find(self.entries, self.chunks.ids, self.chunks.tables, ids, offsets)
            assert torch.equal(found, self.reference.find(ids, offsets))
        assert int((self.entries != 0).sum()) == len(self.reference.slots)


def _batch(tables: list[list[int]]) -> tuple[Tensor, Tensor]:
    offsets = torch.tensor([0, *map(len, tables)]).cumsum(0)
    return torch.tensor([i for ids in tables for i in ids], dtype=torch.int64), offsets


@st.composite
def _tables(draw: st.DrawFn) -> list[list[int]]:
    colliding = [st.sampled_from([id_of_hash(h, table) for h in HASHES]) for table in range(3)]
    others = st.one_of(
        st.sampled_from(EXTREME_IDS.tolist()), st.integers(-(2**63), 2**63 - 1), st.integers(0, 9)
    )
    return [draw(st.lists(st.one_of(ids, others), max_size=20)) for ids in colliding]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["insert", "insert", "remove", "find"]), _tables())))
def test_agrees_with_a_dictionary(operations: list[tuple[str, list[list[int]]]]) -> None:
    tested = Map()
    for operation, tables in operations:
        {"insert": tested.insert, "remove": tested.remove, "find": tested.check}[operation](tables)


def test_ids_of_one_hash_stay_apart() -> None:
    """Upper halves of hashes, all that an entry has of them, may be equal."""
    tested = Map(capacity=64)
    ids = [[id_of_hash(0xFFFFFFFF << 32 | i, table) for i in range(30)] for table in range(3)]
    tested.insert(ids)
    tested.remove([of_table[::2] for of_table in ids])
    tested.insert(ids)
    tested.remove(ids)
    assert not tested.entries.any()


def test_an_id_of_one_hash_in_two_tables_has_two_rows() -> None:
    """The upper halves of its hashes agree, as a search through all ids from 0 on found."""
    tested = Map()
    for id_ in (1917339919, 6133573956):
        tested.insert([[], [id_], []])
        tested.check([[id_], [id_], []])
        tested.insert([[id_], [], []])
        tested.remove([[], [id_], []])
        tested.check([[id_], [id_], []])


def _many_ids(num_ids: int, seed: int = 0) -> Tensor:
    """Different from each other, whatever the seed."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randperm(num_ids, generator=draw) * 0x61C8864680B583EB + 12345


def _insert_many(capacity: int, num_ids: int) -> tuple[Tensor, Chunks, Tensor, Tensor]:
    """Entries, chunks, ids and slots, half of the ids in either table."""
    chunks = Chunks([65536, 1000, 65536, 65536, 65536], [1, 0, 0, 1, 0])
    entries = torch.zeros(capacity, dtype=torch.int64)
    half = num_ids // 2
    ids, offsets = _many_ids(num_ids), torch.tensor([0, half, num_ids])
    slots = torch.cat([chunks.slots[0][:half].flip(0), chunks.slots[1][: num_ids - half]])
    id_map_insert_(entries, chunks.ids, chunks.tables, ids, offsets, slots)
    return entries, chunks, ids, slots


def _find(entries: Tensor, chunks: Chunks, ids: Tensor) -> Tensor:
    offsets = torch.tensor([0, len(ids) // 2, len(ids)])
    return id_map_find(entries, chunks.ids, chunks.tables, ids, offsets)


@pytest.mark.parametrize(
    ("capacity", "num_ids"),
    [(16, 12), (1024, 768), (65536, 8191), (65536, 8192), (65536, 49_152), (2**18, 196_608)],
)
def test_many_ids(capacity: int, num_ids: int) -> None:
    entries, chunks, ids, slots = _insert_many(capacity, num_ids)
    assert torch.equal(_find(entries, chunks, ids), slots)
    assert (_find(entries, chunks, ids + 1) == -1).all()
    of_other_table = torch.cat([ids[num_ids // 2 :], ids[: num_ids // 2]])
    cut = torch.tensor([0, num_ids - num_ids // 2, num_ids])
    found = id_map_find(entries, chunks.ids, chunks.tables, of_other_table, cut)
    assert (found == -1).all()
    for larger in (2 * capacity, 16 * capacity):
        grown = id_map_grow(entries, larger)
        assert int((grown != 0).sum()) == num_ids
        assert torch.equal(_find(grown, chunks, ids), slots)
    gone = torch.randperm(num_ids)[: num_ids // 2]
    id_map_remove_(entries, chunks.ids, chunks.tables, slots[gone])
    left = slots.index_fill(0, gone, -1)
    assert torch.equal(_find(entries, chunks, ids), left)
    assert torch.equal(_find(id_map_grow(entries, 4 * capacity), chunks, ids), left)


def test_ids_that_crowd_at_the_ends_of_regions() -> None:
    """Large maps are filled region by region: here most entries spill out of theirs."""
    capacity, num_regions, num_ids = 65536, 64, 12_800
    homes = [(r + 1) * (capacity // num_regions) - 1 for r in range(num_regions)]
    hashes = [home << 48 | i << 8 for i in range(num_ids // num_regions) for home in homes]
    ids = torch.tensor([id_of_hash(h, 0) for h in hashes])
    chunks = Chunks([num_ids], [0])
    entries = torch.zeros(capacity, dtype=torch.int64)
    one_table = torch.tensor([0, num_ids])
    id_map_insert_(entries, chunks.ids, chunks.tables, ids, one_table, chunks.slots[0])
    for each in (entries, id_map_grow(entries, 2 * capacity), id_map_grow(entries, 2**20)):
        found = id_map_find(each, chunks.ids, chunks.tables, ids, one_table)
        assert torch.equal(found, chunks.slots[0])
    id_map_remove_(entries, chunks.ids, chunks.tables, chunks.slots[0][1::2])
    found = id_map_find(entries, chunks.ids, chunks.tables, ids, one_table)
    assert torch.equal(found[::2], chunks.slots[0][::2])
    assert (found[1::2] == -1).all()


def test_same_result_for_any_number_of_threads() -> None:
    def run() -> list[Tensor]:
        entries, chunks, ids, slots = _insert_many(2**17, 90_000)
        found = _find(entries, chunks, ids)
        grown = id_map_grow(entries, 2**18)
        id_map_remove_(entries, chunks.ids, chunks.tables, slots[::3])
        return [entries, found, grown, *chunks.ids]

    alone = run()
    threads = torch.get_num_threads()
    try:
        for count in (2, 3, 7):
            torch.set_num_threads(count)
            for one, other in zip(alone, run(), strict=True):
                assert torch.equal(one, other)
    finally:
        torch.set_num_threads(threads)


def test_a_map_without_chunks_finds_nothing() -> None:
    found = id_map_find(torch.zeros(16).long(), [], [], EXTREME_IDS, torch.tensor([0, 9]))
    assert (found == -1).all()


def test_entries_of_rows_that_are_not_there_find_nothing() -> None:
    """Entries of another map, or damaged ones, never lead out of the chunks."""
    damaged = torch.randint(-(2**63), 2**63 - 1, (64,))
    chunks = Chunks([3], [0])
    found = id_map_find(damaged, chunks.ids, [0], torch.arange(1000) + 1, torch.tensor([0, 1000]))
    assert (found == -1).all()
