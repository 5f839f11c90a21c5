"""The different ids of a batch: the op against dictionaries."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.ops.embedding_cases import EXTREME_IDS, id_batches, id_of_hash, zipf_ids
from torchrec_gr.ops import unique_ids
from torchrec_gr.ops.unique_ids_reference import unique_ids_reference

NONE = torch.tensor([], dtype=torch.int64)


def _assert_unique(ids: Tensor, offsets: Tensor, counts: Tensor | None = None) -> None:
    actual = unique_ids(ids, offsets, counts)
    expected = unique_ids_reference(ids, offsets, counts)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == torch.int64
        assert torch.equal(one, other)


def test_in_order_of_first_appearance_table_by_table() -> None:
    ids, offsets = torch.tensor([7, -1, 7, -1, 7, 3]), torch.tensor([0, 3, 3, 6])
    unique, unique_offsets, inverse, counts = unique_ids(ids, offsets)
    assert unique.tolist() == [7, -1, -1, 7, 3]
    assert unique_offsets.tolist() == [0, 2, 2, 5]
    assert inverse.tolist() == [0, 1, 0, 2, 3, 4]
    assert counts.tolist() == [2, 1, 1, 1, 1]


def test_counts_are_summed() -> None:
    given_counts = torch.tensor([5, 0, 2**40, 1])
    _, _, _, counts = unique_ids(torch.tensor([1, 2, 1, 2]), torch.tensor([0, 4]), given_counts)
    assert counts.tolist() == [5 + 2**40, 1]


@settings(deadline=None, max_examples=200)
@given(id_batches(), st.booleans())
def test_equals_the_reference(batch: tuple[Tensor, Tensor], counted: bool) -> None:
    ids, offsets = batch
    _assert_unique(ids, offsets, torch.arange(len(ids)) if counted else None)


@pytest.mark.parametrize("offsets", [[0], [0, 0], [0, 0, 0]])
def test_no_ids(offsets: list[int]) -> None:
    _assert_unique(NONE, torch.tensor(offsets))
    _assert_unique(NONE, torch.tensor(offsets), NONE)


@pytest.mark.parametrize("num_ids", [1, 16_383, 16_384, 32_768, 32_769, 100_001])
@pytest.mark.parametrize("kind", ["zipf", "equal", "different"])
def test_many_ids(num_ids: int, kind: str) -> None:
    ids = {
        "zipf": lambda: zipf_ids(num_ids),
        "equal": lambda: torch.full((num_ids,), -(2**63)),
        "different": lambda: torch.arange(num_ids) - num_ids // 2,
    }[kind]()
    cuts = torch.tensor([0, num_ids // 3, num_ids // 3, num_ids - num_ids // 5, num_ids])
    _assert_unique(ids, cuts)
    _assert_unique(ids, cuts.int(), torch.arange(num_ids))


def test_ids_of_any_value_in_many_tables() -> None:
    ids = EXTREME_IDS.repeat(3)
    _assert_unique(ids, torch.arange(len(ids) + 1))
    _assert_unique(ids, torch.tensor([0, len(ids)]))


def test_ids_of_one_hash_in_two_tables_are_different() -> None:
    of_tables = [[id_of_hash(hashed, table) for hashed in (5, 6, 5)] for table in range(3)]
    _assert_unique(torch.tensor(of_tables).flatten(), torch.tensor([0, 3, 6, 9]))


def test_ids_that_are_not_contiguous() -> None:
    ids = torch.stack([zipf_ids(200), zipf_ids(200, seed=1)], dim=1)[:, 0]
    _assert_unique(ids, torch.tensor([0, 50, 200]), torch.arange(400)[::2])


def test_same_result_for_any_number_of_threads() -> None:
    ids, offsets = zipf_ids(150_000), torch.tensor([0, 10, 70_000, 150_000])
    alone = unique_ids(ids, offsets)
    threads = torch.get_num_threads()
    try:
        for count in (2, 3, 7):
            torch.set_num_threads(count)
            for one, other in zip(alone, unique_ids(ids, offsets), strict=True):
                assert torch.equal(one, other)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("name", "ids", "offsets", "counts"),
    [
        ("ids", torch.zeros(4), torch.tensor([0, 4]), None),
        ("ids", torch.zeros(4, dtype=torch.int32), torch.tensor([0, 4]), None),
        ("ids", torch.zeros(4, 1, dtype=torch.int64), torch.tensor([0, 4]), None),
        ("offsets", torch.arange(4), torch.tensor([0, 3]), None),
        ("offsets", torch.arange(4), torch.tensor([1, 4]), None),
        ("offsets", torch.arange(4), torch.tensor([0, 3, 2, 4]), None),
        ("offsets", torch.arange(4), NONE, None),
        ("offsets", torch.arange(4), torch.tensor([0.0, 4.0]), None),
        ("counts", torch.arange(4), torch.tensor([0, 4]), torch.arange(3)),
        ("counts", torch.arange(4), torch.tensor([0, 4]), torch.ones(4)),
    ],
)
def test_names_the_wrong_argument(
    name: str, ids: Tensor, offsets: Tensor, counts: Tensor | None
) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        unique_ids(ids, offsets, counts)


def test_exports_for_any_number_of_ids() -> None:
    class Unique(torch.nn.Module):
        def forward(self, ids: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            return unique_ids(ids, offsets)

    dynamic = {0: torch.export.Dim.DYNAMIC}
    inputs = torch.tensor([1, 2, 1]), torch.tensor([0, 2, 3])
    program = torch.export.export(Unique(), inputs, dynamic_shapes=(dynamic, dynamic))
    unique, *_ = program.module()(torch.tensor([4, 4, 5, 4]), torch.tensor([0, 2, 2, 4]))
    assert unique.tolist() == [4, 5, 4]
