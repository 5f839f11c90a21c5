"""How often and when rows were seen, and which to evict: the ops against plain loops and a sort."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchrec_gr.ops import rows_to_evict, touch_rows_
from torchrec_gr.ops.seen_rows_reference import rows_to_evict_reference, touch_rows_reference

MOST = 2**31 - 1


def _slot(chunk: int, row: int) -> int:
    return chunk << 16 | row


def _rows(
    sizes: list[int], *, num_counts: int = 4, num_steps: int = 4, num_ids: int = 2**40
) -> tuple[list[Tensor], list[Tensor]]:
    """Ids and `seen` of chunks; a row in num_counts is free."""
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(-num_ids, num_ids, (size,), generator=draw) for size in sizes]
    seen = [
        torch.stack([torch.randint(n, (size,), generator=draw) for n in (num_counts, num_steps)], 1)
        for size in sizes
    ]
    return ids, [of_chunk.int() for of_chunk in seen]


def test_touch_counts_and_dates() -> None:
    seen = [torch.zeros(3, 2, dtype=torch.int32), torch.zeros(2, 2, dtype=torch.int32)]
    seen[1][1] = torch.tensor([MOST - 1, 5])
    slots = torch.tensor([_slot(0, 2), -1, _slot(1, 1), _slot(1, 0)])
    totals = touch_rows_(seen, slots, torch.tensor([3, 9, 2, 2**62]), 7)
    assert totals.tolist() == [3, 0, MOST, MOST]
    assert seen[0].tolist() == [[0, 0], [0, 0], [3, 7]]
    assert seen[1].tolist() == [[MOST, 7], [MOST, 7]]
    assert touch_rows_(seen, slots[:1], torch.tensor([0]), 8).tolist() == [3]
    assert seen[0][2].tolist() == [3, 8]


@pytest.mark.parametrize("num", [0, 1, 100, 30_000])
def test_touch_equals_the_reference_on_any_number_of_threads(num: int) -> None:
    sizes = [1024, 65536]
    slots = torch.cat([(chunk << 16) + torch.arange(size) for chunk, size in enumerate(sizes)])
    slots = slots[torch.randperm(len(slots))[:num]]
    slots[::5] = -1
    counts = torch.randint(0, 2**31, (num,))
    _, expected = _rows(sizes)
    expected_totals = touch_rows_reference(expected, slots, counts, 9)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            _, seen = _rows(sizes)
            assert torch.equal(touch_rows_(seen, slots, counts, 9), expected_totals)
            assert all(map(torch.equal, seen, expected))
    finally:
        torch.set_num_threads(threads)


def test_lru_and_lfu() -> None:
    ids = [torch.tensor([10, 11, 12]), torch.tensor([-9, 5])]
    seen = [torch.tensor([[1, 3], [5, 2], [0, 0]]).int(), torch.tensor([[1, 3], [2, 2]]).int()]
    lru, lfu = (rows_to_evict(ids, seen, [0, 1], 9, policy, 4) for policy in ("lru", "lfu"))
    assert lru.tolist() == [_slot(1, 1), _slot(0, 1), _slot(1, 0), _slot(0, 0)]
    assert lfu.tolist() == [_slot(1, 0), _slot(0, 0), _slot(1, 1), _slot(0, 1)]
    assert rows_to_evict(ids, seen, [0], 9, "lru", 3).tolist() == [_slot(0, 1)]
    assert rows_to_evict(ids, seen, [], 9, "lru", 4).tolist() == []


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(0, 30), max_size=5),
    st.integers(0, 60),
    st.sampled_from(["lru", "lfu"]),
    st.integers(0, 5),
    st.sampled_from([3, 2**40]),
)
def test_equals_a_sort(sizes: list[int], num: int, policy: str, step: int, num_ids: int) -> None:
    """Few ids too: equal ones belong to different tables."""
    ids, seen = _rows(sizes, num_ids=num_ids)
    for chunks in (list(range(len(sizes))), list(range(0, len(sizes), 2))[::-1]):
        expected = rows_to_evict_reference(ids, seen, chunks, num, policy, step)
        assert torch.equal(rows_to_evict(ids, seen, chunks, num, policy, step), expected)


@pytest.mark.parametrize("num", [0, 1, 1000, 20_000, 60_000])
@pytest.mark.parametrize("policy", ["lru", "lfu"])
@pytest.mark.parametrize("num_steps", [3, MOST])
def test_many_rows_on_any_number_of_threads(num: int, policy: str, num_steps: int) -> None:
    sizes = [1024, 1024, 2048, 4096, 8192, 16384, 32768]
    ids, seen = _rows(sizes, num_counts=5, num_steps=num_steps)
    seen[3][:, 1] = num_steps - torch.arange(4096).int().clamp(max=num_steps)  # ever earlier
    chunks = list(range(len(ids)))
    expected = rows_to_evict_reference(ids, seen, chunks, num, policy, MOST)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            assert torch.equal(rows_to_evict(ids, seen, chunks, num, policy, MOST), expected)
    finally:
        torch.set_num_threads(threads)


IDS, SEEN = _rows([4, 3])
SLOTS, COUNTS = torch.tensor([0, _slot(1, 2)]), torch.tensor([1, 2])


@pytest.mark.parametrize(
    ("name", "seen", "slots", "counts", "step"),
    [
        ("seen", [SEEN[0].long()], SLOTS, COUNTS, 1),
        ("seen", [SEEN[0][:, :1]], SLOTS, COUNTS, 1),
        ("seen", [SEEN[0].flatten()], SLOTS, COUNTS, 1),
        ("slots", SEEN, torch.tensor([0, _slot(1, 3)]), COUNTS, 1),
        ("slots", SEEN, torch.tensor([0, _slot(2, 0)]), COUNTS, 1),
        ("slots", SEEN, torch.tensor([0, -2]), COUNTS, 1),
        ("slots", SEEN, SLOTS.int(), COUNTS, 1),
        ("counts", SEEN, SLOTS, COUNTS[:1], 1),
        ("counts", SEEN, SLOTS, COUNTS.int(), 1),
        ("step", SEEN, SLOTS, COUNTS, -1),
        ("step", SEEN, SLOTS, COUNTS, 2**31),
    ],
)
def test_touch_names_the_wrong_argument(
    name: str, seen: list[Tensor], slots: Tensor, counts: Tensor, step: int
) -> None:
    before = [of_chunk.clone() for of_chunk in seen]
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        touch_rows_(seen, slots, counts, step)
    assert all(map(torch.equal, seen, before))


@pytest.mark.parametrize(
    ("name", "ids", "seen", "chunks", "num", "policy"),
    [
        ("chunk_ids", [IDS[0].int()], SEEN[:1], [0], 1, "lru"),
        ("seen", IDS, SEEN[:1], [0], 1, "lru"),
        ("seen", IDS, SEEN[::-1], [0], 1, "lru"),
        ("chunks", IDS, SEEN, [0, 2], 1, "lru"),
        ("chunks", IDS, SEEN, [-1], 1, "lru"),
        ("num", IDS, SEEN, [0], -1, "lru"),
        ("policy", IDS, SEEN, [0], 1, "age"),
    ],
)
def test_evict_names_the_wrong_argument(
    name: str, ids: list[Tensor], seen: list[Tensor], chunks: list[int], num: int, policy: str
) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        rows_to_evict(ids, seen, chunks, num, policy, 1)
