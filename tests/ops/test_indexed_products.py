"""Products with rows read by index, against one product after the other, values and gradients."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from torch import Tensor

from torchrec_gr.ops.indexed_products import indexed_products
from torchrec_gr.ops.indexed_products_reference import indexed_products_reference

SHAPES = [
    (5, 50, 7, 9),
    (1, 1, 1, 1),
    (40, 64, 300, 12),
    (0, 8, 4, 3),
    (4, 8, 3, 0),
    (4, 8, 0, 0),
    (3, 0, 2, 2),
    (30, 16, 1, 20),
    (6, 17, 5, 4),
    (6, 65, 5, 4),
    (6, 129, 5, 4),
    (9, 256, 11, 30),
]
"""P, D, R, N."""


def draw(num_left: int, dim: int, num_rows: int, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """float64 vectors and rows, of which the last are never read, and the index."""
    torch.manual_seed(0)
    left = torch.randn(num_left, dim, dtype=torch.float64)
    rows = torch.randn(num_rows, dim, dtype=torch.float64)
    return left, rows, torch.randint(max(1, num_rows // 2), (num_left, num))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_the_oracle(shape: tuple[int, int, int, int]) -> None:
    left, rows, index = draw(*shape)
    mine = left.float().requires_grad_(), rows.float().requires_grad_()
    oracle = left.requires_grad_(), rows.requires_grad_()
    found = indexed_products(*mine, index)
    expected = indexed_products_reference(*oracle, index)
    atol = 1e-6 * (index.numel() + shape[1]) ** 0.5  # the rounding of sums of so many terms
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=atol)
    grad = torch.randn_like(found)
    gradients = torch.autograd.grad(found, mine, grad)
    of_oracle = torch.autograd.grad(expected, oracle, grad.double(), materialize_grads=True)
    for ours, other in zip(gradients, of_oracle, strict=True):
        torch.testing.assert_close(ours, other.float(), rtol=1e-5, atol=atol)


def test_strided_arguments() -> None:
    left, rows, index = (x.float() if x.is_floating_point() else x for x in draw(6, 10, 8, 4))
    strided = [x.t().contiguous().t() for x in (left, rows, index)]
    for x in strided[:2]:
        x.requires_grad_()
    products = indexed_products(*strided)
    torch.testing.assert_close(products, indexed_products_reference(left, rows, index))
    products.sum().backward()  # a gradient that is expanded
    torch.testing.assert_close(strided[0].grad, rows[index].sum(dim=1))


def test_any_number_of_threads_gives_the_same_bits() -> None:
    left, rows, index = draw(600, 50, 70, 40)
    arguments = left.float(), rows.float(), index
    threads, results = torch.get_num_threads(), []
    for num in (1, 2, 3, 7):
        torch.set_num_threads(num)
        products = indexed_products(*arguments)
        backward = torch.ops.torchrec_gr.indexed_products_backward
        results.append((products, *backward(products, *arguments)))
    torch.set_num_threads(threads)
    for one, other in itertools.pairwise(results):
        assert all(map(torch.equal, one, other))


VECTORS = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("left", "rows", "index", "message"),
    [
        (VECTORS[0], VECTORS, torch.zeros(2, 1).long(), "left: expected [P, D]"),
        (VECTORS.double(), VECTORS, torch.zeros(2, 1).long(), "left: expected [P, D] float32"),
        (VECTORS, torch.zeros(2, 4), torch.zeros(2, 1).long(), "rows: expected [R, 3] float32"),
        (VECTORS, VECTORS.double(), torch.zeros(2, 1).long(), "rows: expected [R, 3] float32"),
        (VECTORS, VECTORS, torch.zeros(2, 1), "index: expected [2, N] int64"),
        (VECTORS, VECTORS, torch.zeros(3, 1).long(), "index: expected [2, N] int64"),
        (VECTORS, VECTORS, torch.tensor([[0], [2]]), "among the 2 rows, got 2"),
        (VECTORS, VECTORS, torch.tensor([[-1], [1]]), "among the 2 rows, got -1"),
        (VECTORS, VECTORS[:0], torch.tensor([[0], [0]]), "among the 0 rows, got 0"),
    ],
)
def test_bad_arguments_are_named(left: Tensor, rows: Tensor, index: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        indexed_products(left, rows, index)


def test_a_gradient_of_another_shape_is_refused() -> None:
    backward = torch.ops.torchrec_gr.indexed_products_backward
    with pytest.raises(ValueError, match=re.escape("grad: expected [2, 1] float32")):
        backward(torch.zeros(1, 2), VECTORS, VECTORS, torch.zeros(2, 1).long())


def test_there_is_no_second_derivative() -> None:
    left = VECTORS.clone().requires_grad_()
    product = indexed_products(left, VECTORS, torch.zeros(2, 1).long()).square().sum()
    (gradient,) = torch.autograd.grad(product, left, create_graph=True)
    with pytest.raises(RuntimeError, match="second"):
        gradient.sum().backward()
