"""Deduplication: the op against a dictionary of rows."""

from __future__ import annotations

import fbgemm_gpu  # noqa: F401
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchrec_gr.ops.group_requests import group_requests
from torchrec_gr.ops.group_requests_reference import group_requests_reference

OFFSETS_DTYPES = (torch.int64, torch.int32)
# With this seed every row has the same hash.
COLLIDING_SEED = 0


def _jagged(rows: list[list[int]], dtype: torch.dtype = torch.int64) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([0, *map(len, rows)])
    return torch.tensor([id_ for row in rows for id_ in row], dtype=dtype), lengths.cumsum(0)


def _log(num_rows: int, num_users: int, longest: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of an impression log: each is the history of one of the users, many times over."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, longest + 1, (num_users,), generator=draw)
    histories = torch.randint(0, 2**40, (num_users, longest), generator=draw)
    users = torch.randint(0, num_users, (num_rows,), generator=draw)
    kept = torch.arange(longest) < lengths[users][:, None]
    return histories[users][kept], torch.cat([torch.zeros(1).long(), lengths[users].cumsum(0)])


def _assert_groups(values: Tensor, offsets: Tensor) -> None:
    requests, inverse = group_requests(values, offsets)
    expected_requests, expected_inverse = group_requests_reference(values, offsets)
    assert requests.dtype == inverse.dtype == torch.int64
    assert torch.equal(requests, expected_requests)
    assert torch.equal(inverse, expected_inverse)


@st.composite
def _batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Few different ids and lengths, so that rows are often equal or nearly so."""
    ids = st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)])
    rows = draw(st.lists(st.lists(ids, max_size=9), max_size=12))
    rows += draw(st.lists(st.sampled_from(rows), max_size=12)) if rows else []
    values, offsets = _jagged(rows, draw(st.sampled_from([torch.int32, torch.int64])))
    num_keys = draw(st.sampled_from([None, 1, 3]))
    if num_keys is not None:
        values = torch.stack([values] * (num_keys - 1) + [values.flip(0)], dim=1)
    return values, offsets.to(draw(st.sampled_from(OFFSETS_DTYPES)))


def test_equal_rows_are_one_group_in_order_of_appearance() -> None:
    values, offsets = _jagged([[5, 6], [], [5, 6, 7], [5, 6], [6, 5], []])
    requests, inverse = group_requests(values, offsets)
    assert requests.tolist() == [0, 1, 2, 4]
    assert inverse.tolist() == [0, 1, 2, 0, 3, 1]


@settings(deadline=None, max_examples=200)
@given(_batches())
def test_equals_the_reference(batch: tuple[Tensor, Tensor]) -> None:
    _assert_groups(*batch)


@settings(deadline=None, max_examples=100)
@given(_batches(), st.integers(-(2**63), 2**63 - 1))
def test_collisions_and_seeds_change_nothing(batch: tuple[Tensor, Tensor], seed: int) -> None:
    expected = group_requests_reference(*batch)
    for each in (COLLIDING_SEED, 1, 2**61 - 1, seed):
        requests, inverse = torch.ops.torchrec_gr.group_requests(*batch, each)
        assert torch.equal(requests, expected[0])
        assert torch.equal(inverse, expected[1])


def test_many_rows_of_one_hash_stay_apart() -> None:
    values, offsets = _log(num_rows=2000, num_users=300, longest=5)
    requests, inverse = torch.ops.torchrec_gr.group_requests(values, offsets, COLLIDING_SEED)
    expected_requests, expected_inverse = group_requests_reference(values, offsets)
    assert len(requests) > 200
    assert torch.equal(requests, expected_requests)
    assert torch.equal(inverse, expected_inverse)


@pytest.mark.parametrize(
    ("num_rows", "num_users", "longest"),
    [(0, 1, 0), (1, 1, 0), (1, 1, 1000), (50, 7, 0), (64, 8, 63), (10_000, 500, 20)],
)
@pytest.mark.parametrize("offsets_dtype", OFFSETS_DTYPES)
def test_many_rows_and_few(
    num_rows: int, num_users: int, longest: int, offsets_dtype: torch.dtype
) -> None:
    values, offsets = _log(num_rows, num_users, longest)
    _assert_groups(values, offsets.to(offsets_dtype))


def test_rows_that_differ_in_one_id() -> None:
    """Single ids, and rows with one bit of one id turned, wherever it stands."""
    row = torch.randint(0, 2**40, (37,))
    turned = row.repeat(37 * 64, 1)
    places = torch.arange(37 * 64)
    turned[places, places // 64] ^= torch.ones((), dtype=torch.int64) << (places % 64)
    values = torch.cat([row[None], turned]).flatten()
    requests, _ = group_requests(values, torch.arange(0, len(values) + 1, 37))
    assert len(requests) == 37 * 64 + 1
    requests, _ = group_requests(torch.arange(100_000), torch.arange(100_001))
    assert len(requests) == 100_000


def test_keys_side_by_side() -> None:
    """Rows are equal only if they are so in every key; the same ids shifted are not."""
    values = torch.tensor([[1, 2], [1, 2], [1, 3], [2, 1]], dtype=torch.int32)
    requests, inverse = group_requests(values, torch.arange(5))
    assert requests.tolist() == [0, 2, 3]
    assert inverse.tolist() == [0, 0, 1, 2]
    no_keys = torch.zeros(6, 0, dtype=torch.int64)
    assert group_requests(no_keys, torch.tensor([0, 2, 3, 5, 6]))[1].tolist() == [0, 1, 0, 1]


def test_ids_that_are_not_contiguous() -> None:
    values, offsets = _log(num_rows=40, num_users=5, longest=6)
    wide = torch.stack([values, values.flip(0), values], dim=1)
    _assert_groups(wide[:, :2], offsets)
    _assert_groups(wide[:, 1], offsets)
    _assert_groups(values, torch.stack([offsets, offsets], dim=1)[:, 0])


def test_same_result_for_any_number_of_threads() -> None:
    values, offsets = _log(num_rows=3000, num_users=200, longest=30)
    alone = group_requests(values, offsets)
    threads = torch.get_num_threads()
    try:
        for count in (2, 3, 7):
            torch.set_num_threads(count)
            for one, other in zip(alone, group_requests(values, offsets), strict=True):
                assert torch.equal(one, other)
    finally:
        torch.set_num_threads(threads)


def test_maps_gather_and_spread() -> None:
    """As the docstring says: Psi, and its inverse, bring every row back."""
    values, offsets = _log(num_rows=60, num_users=9, longest=7)
    requests, inverse = group_requests(values, offsets)
    unique, lengths = torch.ops.fbgemm.jagged_index_select(
        values[:, None], offsets.diff(), requests
    )
    again, lengths = torch.ops.fbgemm.jagged_index_select(unique, lengths, inverse)
    assert torch.equal(again[:, 0], values)
    assert torch.equal(lengths, offsets.diff())


@pytest.mark.parametrize(
    ("name", "values", "offsets"),
    [
        ("values", torch.zeros(4), torch.tensor([0, 4])),
        ("values", torch.zeros(4, dtype=torch.int16), torch.tensor([0, 4])),
        ("values", torch.zeros(4, 1, 1, dtype=torch.int64), torch.tensor([0, 4])),
        ("values", torch.tensor(4), torch.tensor([0, 4])),
        ("offsets", torch.arange(4), torch.tensor([0.0, 4.0])),
        ("offsets", torch.arange(4), torch.tensor([[0, 4]])),
        ("offsets", torch.arange(4), torch.tensor([], dtype=torch.int64)),
        ("offsets", torch.arange(4), torch.tensor([1, 4])),
        ("offsets", torch.arange(4), torch.tensor([0, 3])),
        ("offsets", torch.arange(4), torch.tensor([0, 5])),
        ("offsets", torch.arange(4), torch.tensor([0, 3, 2, 4])),
        ("offsets", torch.arange(4), torch.tensor([0, -1, 4], dtype=torch.int32)),
        ("offsets", torch.arange(4), torch.zeros(2, dtype=torch.int64, device="meta")),
    ],
)
def test_names_the_wrong_argument(name: str, values: Tensor, offsets: Tensor) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        group_requests(values, offsets)


def test_op_is_registered_as_torch_wants_it() -> None:
    values, offsets = _log(num_rows=12, num_users=4, longest=5)
    torch.library.opcheck(torch.ops.torchrec_gr.group_requests, (values, offsets, 7))


def test_compiles_in_one_graph() -> None:
    def count_rows(values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        requests, inverse = group_requests(values, offsets)
        return requests, torch.zeros_like(requests).index_add(0, inverse, torch.ones_like(inverse))

    values, offsets = _log(num_rows=30, num_users=4, longest=5)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(count_rows, fullgraph=True, backend="aot_eager")
        for one, other in zip(compiled(values, offsets), count_rows(values, offsets), strict=True):
            assert torch.equal(one, other)


class _Group(torch.nn.Module):
    def forward(self, values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        return group_requests(values, offsets)


def test_exports_for_any_number_of_rows_and_tokens() -> None:
    dynamic = {0: torch.export.Dim.DYNAMIC}
    inputs = _jagged([[1, 2], [1, 2], []])
    program = torch.export.export(_Group(), inputs, dynamic_shapes=(dynamic, dynamic))
    requests, inverse = program.module()(*_jagged([[5], [], [6], [5], []]))
    assert requests.tolist() == [0, 1, 2]
    assert inverse.tolist() == [0, 1, 2, 0, 1]
