"""Rows read by index and pooled, against one place after the other, values and gradients."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from torch import Tensor

from torchrec_gr.ops import pool_rows, sum_rows
from torchrec_gr.ops.pool_rows_reference import pool_rows_reference

SHAPES = [(7, 5, 20), (1, 1, 1), (3, 64, 0), (0, 4, 0), (50, 17, 900), (4, 0, 6), (2000, 33, 3000)]
"""Rows, width, places."""


def offsets_of(num: int, kind: str) -> Tensor | None:
    if kind == "alone":
        return None
    cuts = torch.randint(num + 1, (8,), generator=torch.Generator().manual_seed(num)).sort().values
    bounds = torch.cat([torch.tensor([0, 0]), cuts, torch.tensor([num])])
    return bounds.to(torch.int32) if kind == "int32" else bounds


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["alone", "int32", "int64"])
@pytest.mark.parametrize("weighted", [False, True])
def test_as_the_oracle(shape: tuple[int, int, int], kind: str, weighted: bool) -> None:
    num_rows, dim, num = shape
    torch.manual_seed(0)
    rows = torch.randn(num_rows, dim, dtype=torch.float64)
    index = torch.randint(max(1, num_rows // 2), (num,))
    offsets = offsets_of(num, kind)
    weights = torch.rand(num) if weighted else None
    mine, oracle = rows.float().requires_grad_(), rows.requires_grad_()
    found = pool_rows(mine, index, offsets, weights)
    expected = pool_rows_reference(oracle, index, offsets, weights)
    atol = 1e-7 * (num + 10)  # the rounding of sums of at most so many terms
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=atol)
    grad = torch.randn_like(found)
    found.backward(grad)
    expected.backward(grad.double())
    assert oracle.grad is not None
    torch.testing.assert_close(mine.grad, oracle.grad.float(), rtol=1e-5, atol=atol)


def test_a_gradient_has_its_own() -> None:
    torch.manual_seed(0)
    index, offsets = torch.randint(5, (9,)), torch.tensor([0, 2, 2, 9])
    grad, rows = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    (sum_rows(grad, index, offsets, num_rows=5) * rows).sum().backward()
    assert grad.grad is not None
    torch.testing.assert_close(grad.grad, pool_rows_reference(rows, index, offsets))


def test_any_number_of_threads_gives_the_same_bits() -> None:
    torch.manual_seed(0)
    rows, index = torch.randn(300, 40), torch.randint(300, (20000,))
    offsets, threads = torch.arange(0, 20001, 8), torch.get_num_threads()
    results = []
    for num in (1, 2, 3, 7):
        torch.set_num_threads(num)
        pooled = pool_rows(rows, index, offsets)
        results.append((pooled, sum_rows(pooled, index, offsets, num_rows=300)))
    torch.set_num_threads(threads)
    for (pooled, sums), (others, other_sums) in itertools.pairwise(results):
        assert torch.equal(pooled, others)
        assert torch.equal(sums, other_sums)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3), torch.zeros(1).long()), "rows: expected rows, [n, D] float32, got [3]"),
        ((torch.zeros(3, 2).double(), torch.zeros(1).long()), "rows: expected rows"),
        ((torch.zeros(3, 2), torch.zeros(1)), "index: expected [n] int64, got [1] float32"),
        ((torch.zeros(3, 2), torch.tensor([0, 3])), "among the 3 rows, got 3"),
        ((torch.zeros(3, 2), torch.tensor([0, -1])), "among the 3 rows, got -1"),
        ((torch.zeros(0, 2), torch.tensor([0])), "among the 0 rows, got 0"),
        (
            (torch.zeros(3, 2), torch.zeros(4).long(), torch.tensor([0, 3])),
            "offsets: expected to rise from 0 to the 4 tokens of index",
        ),
        (
            (torch.zeros(3, 2), torch.zeros(4).long(), None, torch.zeros(3)),
            "weights: expected [4] float32, got [3]",
        ),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        pool_rows(*arguments)


def test_a_gradient_of_another_shape_is_refused() -> None:
    index, offsets = torch.zeros(4).long(), torch.tensor([0, 3, 4])
    with pytest.raises(ValueError, match="one row for each of the 2 bags"):
        sum_rows(torch.zeros(4, 2), index, offsets, num_rows=1)
    with pytest.raises(ValueError, match="one row for each of the 4 places"):
        sum_rows(torch.zeros(2, 2), index, num_rows=1)
    with pytest.raises(ValueError, match="num_rows: expected a count, got -1"):
        sum_rows(torch.zeros(4, 2), index, num_rows=-1)
