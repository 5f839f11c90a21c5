"""Rows joined and split: the ops, and their form for other devices, against slices of rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchrec_gr.ops.jagged_concat import (
    concat_by_index,
    jagged_concat,
    jagged_split,
    split_by_index,
)
from torchrec_gr.ops.jagged_concat_reference import jagged_concat_reference, jagged_split_reference

OFFSETS_DTYPES = (torch.int64, torch.int32)
Concat = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Split = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]


def _split(values: Tensor, a_offsets: Tensor, b_offsets: Tensor, num_a: int) -> Any:
    return jagged_split(values, a_offsets, b_offsets, num_a=num_a)


both_forms = pytest.mark.parametrize(
    ("concat", "split"),
    [(jagged_concat, _split), (concat_by_index, split_by_index)],
    ids=["op", "by_index"],
)


def _offsets(lengths: list[int] | Tensor, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.cat([torch.zeros(1), torch.as_tensor(lengths).cumsum(0)]).to(dtype)


def _values(
    num_tokens: int, trailing: tuple[int, ...], dtype: torch.dtype, shift: int = 0
) -> Tensor:
    count = torch.arange(num_tokens * torch.Size(trailing).numel()) + shift
    return count.reshape(num_tokens, *trailing).to(dtype)


def _assert_joined(
    concat: Concat, split: Split, a: Tensor, b: Tensor, a_offsets: Tensor, b_offsets: Tensor
) -> None:
    joined = concat(a, b, a_offsets, b_offsets)
    expected = jagged_concat_reference(a, b, a_offsets, b_offsets)
    assert joined.dtype == a.dtype
    assert torch.equal(joined, expected)
    halves = split(expected, a_offsets, b_offsets, a.shape[0])
    for half, sliced, given_ in zip(
        halves, jagged_split_reference(expected, a_offsets, b_offsets), (a, b), strict=True
    ):
        assert torch.equal(half, sliced)
        assert torch.equal(half, given_)


@both_forms
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_equals_the_reference(concat: Concat, split: Split, data: st.DataObject) -> None:
    lengths = st.sampled_from([0, 0, 1, 2, 7, 64, 300])
    rows = data.draw(st.lists(st.tuples(lengths, lengths), max_size=10))
    a_lengths, b_lengths = [a for a, _ in rows], [b for _, b in rows]
    trailing = data.draw(st.sampled_from([(), (1,), (3,), (2, 5), (0,), (400,)]))
    dtype = data.draw(
        st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.int8, torch.bool])
    )
    a = _values(sum(a_lengths), trailing, dtype)
    b = _values(sum(b_lengths), trailing, dtype, shift=11)
    a_offsets = _offsets(a_lengths, data.draw(st.sampled_from(OFFSETS_DTYPES)))
    b_offsets = _offsets(b_lengths, data.draw(st.sampled_from(OFFSETS_DTYPES)))
    _assert_joined(concat, split, a, b, a_offsets, b_offsets)


@both_forms
@pytest.mark.parametrize(
    ("a_lengths", "b_lengths"),
    [
        ([], []),
        ([0], [0]),
        ([0, 0, 0], [0, 0, 0]),
        ([20_000], [1]),
        ([0], [5]),
        ([1] * 50 + [9000] + [0] * 50, [2] * 50 + [0] + [9] * 50),
        ([i % 7 for i in range(10_000)], [i % 3 for i in range(10_000)]),
    ],
    ids=["no_row", "one_empty", "all_empty", "one_row", "b_alone", "one_long", "many"],
)
def test_few_rows_and_many(
    concat: Concat, split: Split, a_lengths: list[int], b_lengths: list[int]
) -> None:
    a = _values(sum(a_lengths), (3,), torch.float32)
    b = _values(sum(b_lengths), (3,), torch.float32, shift=10**6)
    _assert_joined(concat, split, a, b, _offsets(a_lengths), _offsets(b_lengths))


@both_forms
def test_values_that_are_not_contiguous(concat: Concat, split: Split) -> None:
    a_offsets, b_offsets = _offsets([2, 0, 3]), _offsets([1, 4, 0])
    a = _values(4, (5,), torch.float64).t()[:, ::2]
    b = _values(1, (2,), torch.float64, shift=50).expand(5, 2)
    _assert_joined(concat, split, a, b, a_offsets, torch.stack([b_offsets] * 2, dim=1)[:, 0])
    joined = _values(2, (10,), torch.float64).t()
    halves = split(joined, a_offsets, b_offsets, 5)
    for half, sliced in zip(
        halves, jagged_split_reference(joined, a_offsets, b_offsets), strict=True
    ):
        assert torch.equal(half, sliced)


def test_complex_values_that_are_conjugated_lazily() -> None:
    a = torch.randn(3, 2, dtype=torch.complex64).conj()
    b = torch.randn(2, 2, dtype=torch.complex64)
    _assert_joined(jagged_concat, _split, a, b, _offsets([1, 2]), _offsets([2, 0]))


def test_same_result_for_any_number_of_threads() -> None:
    draw = torch.Generator().manual_seed(0)
    a_lengths = torch.randint(0, 60, (500,), generator=draw)
    b_lengths = torch.randint(0, 9, (500,), generator=draw)
    b_lengths[77] = 5000
    a = torch.randn(int(a_lengths.sum()), 16, generator=draw)
    b = torch.randn(int(b_lengths.sum()), 16, generator=draw)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            _assert_joined(jagged_concat, _split, a, b, _offsets(a_lengths), _offsets(b_lengths))
    finally:
        torch.set_num_threads(threads)


def test_gradients() -> None:
    a_offsets, b_offsets = _offsets([2, 0, 1]), _offsets([1, 2, 0])
    a = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    joined = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)

    # Squared: else the second derivative, which gradgradcheck compares, would be 0.
    def concat(a: Tensor, b: Tensor) -> Tensor:
        return jagged_concat(a, b, a_offsets, b_offsets) ** 2

    def split(values: Tensor) -> tuple[Tensor, ...]:
        return tuple(x**2 for x in jagged_split(values, a_offsets, b_offsets, num_a=3))

    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(concat, (a, b))
        assert check(split, (joined,))


def test_gradient_of_one_side_alone() -> None:
    """A side without a gradient, and a half that nobody uses."""
    a_offsets, b_offsets = _offsets([2, 0, 1]), _offsets([1, 2, 0])
    a, b = torch.randn(3, 2), torch.randn(3, 2, requires_grad=True)
    weights = torch.randn(6, 2)
    (jagged_concat(a, b, a_offsets, b_offsets) * weights).sum().backward()
    assert b.grad is not None
    assert torch.equal(b.grad, jagged_split_reference(weights, a_offsets, b_offsets)[1])
    values = torch.randn(6, 2, requires_grad=True)
    jagged_split(values, a_offsets, b_offsets, num_a=3)[1].sum().backward()
    assert values.grad is not None
    assert values.grad.sum(1).tolist() == [0, 0, 2, 2, 2, 0]


def test_ops_are_registered_as_torch_wants_them() -> None:
    a_offsets, b_offsets = _offsets([2, 0, 1]), _offsets([1, 2, 0], torch.int32)
    a, b = torch.randn(3, 2, requires_grad=True), torch.randn(3, 2, requires_grad=True)
    torch.library.opcheck(torch.ops.torchrec_gr.jagged_concat, (a, b, a_offsets, b_offsets))
    values = torch.randn(6, 2, requires_grad=True)
    torch.library.opcheck(torch.ops.torchrec_gr.jagged_split, (values, a_offsets, b_offsets, 3))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_in_one_graph(dynamic: bool) -> None:
    def there_and_back(a: Tensor, b: Tensor, a_offsets: Tensor, b_offsets: Tensor) -> Tensor:
        joined = jagged_concat(a * 2, b, a_offsets, b_offsets).sin()
        halves = jagged_split(joined, a_offsets, b_offsets, num_a=a.shape[0])
        return halves[0].sum() + halves[1].square().sum()

    compiled = torch.compile(there_and_back, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for a_lengths, b_lengths in (([2, 0, 1], [1, 2, 0]), ([5, 0, 4, 3], [0, 3, 3, 7])):
        leaves = [
            torch.randn(sum(lengths), 4, requires_grad=True) for lengths in (a_lengths, b_lengths)
        ]
        offsets = _offsets(a_lengths), _offsets(b_lengths)
        ours, theirs = compiled(*leaves, *offsets), there_and_back(*leaves, *offsets)
        torch.testing.assert_close(ours, theirs)
        for one, other in zip(
            torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True
        ):
            torch.testing.assert_close(one, other)


class _JoinAndSplit(torch.nn.Module):
    def forward(
        self, a: Tensor, b: Tensor, a_offsets: Tensor, b_offsets: Tensor
    ) -> tuple[Tensor, Tensor]:
        joined = jagged_concat(a, b, a_offsets, b_offsets)
        return jagged_split(joined * 2, a_offsets, b_offsets, num_a=a.shape[0])


def test_exports_for_any_number_of_rows_and_tokens() -> None:
    dynamic = {0: torch.export.Dim.DYNAMIC}
    inputs = torch.randn(3, 2), torch.randn(4, 2), _offsets([2, 0, 1]), _offsets([1, 3, 0])
    program = torch.export.export(_JoinAndSplit(), inputs, dynamic_shapes=(dynamic,) * 4)
    a, b = torch.randn(9, 2), torch.randn(5, 2)
    halves = program.module()(a, b, _offsets([9, 0]), _offsets([3, 2]))
    assert torch.equal(halves[0], a * 2)
    assert torch.equal(halves[1], b * 2)


GOOD_CONCAT = {
    "a": torch.zeros(3, 2),
    "b": torch.zeros(4, 2),
    "a_offsets": torch.tensor([0, 1, 3]),
    "b_offsets": torch.tensor([0, 4, 4]),
}
GOOD_SPLIT = {
    "values": torch.zeros(7, 2),
    "a_offsets": torch.tensor([0, 1, 3]),
    "b_offsets": torch.tensor([0, 4, 4]),
    "num_a": 3,
}
WRONG_OFFSETS = [
    torch.tensor([0.0, 1.0, 3.0]),
    torch.tensor([[0, 1, 3]]),
    torch.tensor([], dtype=torch.int64),
    torch.zeros(3, dtype=torch.int64, device="meta"),
]
OFFSETS_THAT_DO_NOT_FIT = [
    [1, 1, 3],
    [0, 1, 2],
    [0, 1, 5],
    [0, 4, 3],
    [0, -1, 3],
]
WRONG_CONCAT = [
    ("a", torch.tensor(1.0)),
    ("b", torch.tensor(1.0)),
    ("b", torch.zeros(4, 3)),
    ("b", torch.zeros(4)),
    ("b", torch.zeros(4, 2, dtype=torch.float64)),
    ("b", torch.zeros(4, 2, device="meta")),
    ("b_offsets", torch.tensor([0, 1, 2, 4])),
    *((name, wrong) for name in ("a_offsets", "b_offsets") for wrong in WRONG_OFFSETS),
]
WRONG_SPLIT = [
    ("values", torch.tensor(1.0)),
    ("num_a", -1),
    ("num_a", 8),
    ("b_offsets", torch.tensor([0, 1, 2, 4])),
    *((name, wrong) for name in ("a_offsets", "b_offsets") for wrong in WRONG_OFFSETS),
]


@both_forms
@pytest.mark.parametrize(("name", "wrong"), WRONG_CONCAT)
def test_concat_names_the_wrong_argument(
    concat: Concat, split: Split, name: str, wrong: Tensor
) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        concat(**{**GOOD_CONCAT, name: wrong})


@both_forms
@pytest.mark.parametrize(("name", "wrong"), WRONG_SPLIT)
def test_split_names_the_wrong_argument(
    concat: Concat, split: Split, name: str, wrong: Tensor | int
) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        split(**{**GOOD_SPLIT, name: wrong})


@pytest.mark.parametrize("wrong", OFFSETS_THAT_DO_NOT_FIT)
@pytest.mark.parametrize("name", ["a_offsets", "b_offsets"])
@pytest.mark.parametrize("dtype", OFFSETS_DTYPES)
def test_offsets_that_do_not_fit(name: str, wrong: list[int], dtype: torch.dtype) -> None:
    offsets = {name: torch.tensor(wrong, dtype=dtype)}
    message = re.escape(f"{name}: expected to rise from 0 to the ")
    with pytest.raises(ValueError, match=message):
        jagged_concat(**{**GOOD_CONCAT, **offsets})
    with pytest.raises(ValueError, match=message):
        jagged_split(**{**GOOD_SPLIT, **offsets})
    # Here an assertion that a GPU would make without the host.
    with pytest.raises(RuntimeError, match=message):
        concat_by_index(**{**GOOD_CONCAT, **offsets})
    with pytest.raises(RuntimeError, match=message):
        split_by_index(**{**GOOD_SPLIT, **offsets})


def test_fakes_name_the_wrong_argument() -> None:
    good = {key: value.to("meta") for key, value in GOOD_CONCAT.items()}
    with pytest.raises(ValueError, match=r"^b: expected "):
        jagged_concat(**{**good, "b": torch.zeros(4, 3, device="meta")})
    assert jagged_concat(**good).shape == (7, 2)
