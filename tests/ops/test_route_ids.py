"""Which process owns an id: the op against a sort by the hash on Python's integers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.ops.embedding_cases import EXTREME_IDS, id_batches, zipf_ids
from torchrec_gr.ops import route_ids
from torchrec_gr.ops.route_ids_reference import owner, route_ids_reference

OWNERS = [686, 167, 991, 892, 71]


def _assert_routed(ids: Tensor, offsets: Tensor, num_owners: int) -> None:
    order, lengths = route_ids(ids, offsets, num_owners)
    expected_order, expected_lengths = route_ids_reference(ids, offsets, num_owners)
    assert order.dtype == lengths.dtype == torch.int64
    assert torch.equal(order, expected_order)
    assert torch.equal(lengths, expected_lengths)


def test_owners_never_change() -> None:
    """Checkpoints may rely on them."""
    assert [owner(id_, 1000) for id_ in (0, 1, -1, 2**63 - 1, -(2**63))] == OWNERS
    ids = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63)])
    _, lengths = route_ids(ids, torch.tensor([0, 5]), 1000)
    assert lengths.nonzero().flatten().tolist() == sorted(OWNERS)


@settings(deadline=None, max_examples=200)
@given(id_batches(), st.sampled_from([1, 2, 3, 4, 7, 64]))
def test_equals_the_reference(batch: tuple[Tensor, Tensor], num_owners: int) -> None:
    _assert_routed(*batch, num_owners)


@pytest.mark.parametrize("num_ids", [0, 1, 32_768, 32_769, 70_000])
@pytest.mark.parametrize("num_owners", [1, 2, 5])
def test_many_ids(num_ids: int, num_owners: int) -> None:
    cuts = torch.tensor([0, num_ids // 3, num_ids // 3, num_ids])
    _assert_routed(zipf_ids(num_ids), cuts, num_owners)


def test_an_id_has_one_owner_whatever_its_table() -> None:
    ids = EXTREME_IDS.repeat(4)
    order, lengths = route_ids(ids, torch.arange(5) * len(EXTREME_IDS), 8)
    owners = torch.arange(32).repeat_interleave(lengths) // 4
    of_id = torch.empty_like(owners).scatter_(0, order, owners).view(4, -1)
    assert (of_id == of_id[0]).all()


@pytest.mark.parametrize("num_owners", [2, 3, 8, 64])
@pytest.mark.parametrize("step", [1, 2, 64, 2**16, 2**32, 2**57 + 1])
def test_regular_ids_spread_evenly(num_owners: int, step: int) -> None:
    """To 6 standard deviations of a fair draw: small ids must not crowd on one process."""
    num_ids = 64_000
    _, lengths = route_ids(torch.arange(num_ids) * step, torch.tensor([0, num_ids]), num_owners)
    fair = num_ids / num_owners
    assert (lengths - fair).abs().max() < 6 * fair**0.5


def test_same_result_for_any_number_of_threads() -> None:
    ids, offsets = zipf_ids(150_000), torch.tensor([0, 10, 70_000, 150_000])
    alone = route_ids(ids, offsets, 5)
    threads = torch.get_num_threads()
    try:
        for count in (2, 3, 7):
            torch.set_num_threads(count)
            for one, other in zip(alone, route_ids(ids, offsets, 5), strict=True):
                assert torch.equal(one, other)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("name", "ids", "offsets", "num_owners"),
    [
        ("ids", torch.zeros(4), torch.tensor([0, 4]), 2),
        ("ids", torch.arange(4)[None], torch.tensor([0, 4]), 2),
        ("offsets", torch.arange(4), torch.tensor([0, 5]), 2),
        ("offsets", torch.arange(4), torch.tensor([[0, 4]]), 2),
        ("num_owners", torch.arange(4), torch.tensor([0, 4]), 0),
        ("num_owners", torch.arange(4), torch.tensor([0, 4]), -1),
        ("num_owners", torch.arange(4), torch.tensor([0, 4]), 2**40),
    ],
)
def test_names_the_wrong_argument(name: str, ids: Tensor, offsets: Tensor, num_owners: int) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        route_ids(ids, offsets, num_owners)
