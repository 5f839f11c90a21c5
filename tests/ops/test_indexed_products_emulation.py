"""The CUDA kernels of indexed_products, run on the host in emulation (tests/csrc)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, Structure, c_char_p, c_int64, c_void_p
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.csrc.emulated_attention import Memory, Schedule
from torchrec_gr.ops.indexed_products_reference import indexed_products_reference

# The structures of csrc/cuda/indexed_products.h.


class IndexedProducts(Structure):
    _fields_ = (
        ("left", c_void_p),
        ("rows", c_void_p),
        ("index", c_void_p),
        ("num_left", c_int64),
        ("num_rows", c_int64),
        ("num_products", c_int64),
        ("dim", c_int64),
    )


class IndexedProductGradients(Structure):
    _fields_ = (
        ("of_products", c_void_p),
        ("order", c_void_p),
        ("starts", c_void_p),
        ("of_left", c_void_p),
        ("of_rows", c_void_p),
    )


@pytest.fixture(scope="module")
def kernels(compile_for_host: Callable[[str], Path]) -> ctypes.CDLL:
    library = ctypes.CDLL(str(compile_for_host("emulated_products")))
    library.forward.argtypes = [POINTER(IndexedProducts), c_void_p]
    library.backward.argtypes = [POINTER(IndexedProducts), POINTER(IndexedProductGradients)]
    library.forward.restype = library.backward.restype = c_char_p
    return library


def results(
    kernels: ctypes.CDLL, left: Tensor, rows: Tensor, index: Tensor, grad: Tensor
) -> list[Tensor]:
    """Products, and the gradients of left and rows, each between margins that must last."""
    memory = Memory()
    left, rows, index, grad = map(memory.copy, (left, rows, index, grad))
    tensors = [x.data_ptr() for x in (left, rows, index)]
    sizes = [len(left), len(rows), index.shape[1], left.shape[1]]
    problem = IndexedProducts(*tensors, *sizes)
    products, of_left, of_rows = (memory.blank(x.shape, x.dtype) for x in (grad, left, rows))
    places, order = index.flatten().sort(stable=True)
    starts = torch.searchsorted(places, torch.arange(len(rows) + 1))
    read_and_written = [x.data_ptr() for x in (grad, order, starts, of_left, of_rows)]
    messages = [
        kernels.forward(problem, products.data_ptr()),
        kernels.backward(problem, IndexedProductGradients(*read_and_written)),
    ]
    for message in messages:
        if message is not None:
            raise RuntimeError(message.decode())
    memory.assert_margins_last()
    return [products, of_left, of_rows]


def draw(num_left: int, dim: int, num_rows: int, num: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    left, rows, grad = (
        torch.randn(size) for size in ((num_left, dim), (num_rows, dim), (num_left, num))
    )
    return left, rows, torch.randint(max(1, num_rows // 2), (num_left, num)), grad


@pytest.mark.parametrize(
    "shape",
    [(9, 50, 7, 5), (1, 1, 1, 1), (8, 64, 17, 3), (0, 4, 3, 2), (3, 4, 9, 0), (2, 33, 4, 6)],
    ids=str,
)
def test_near_the_oracle(kernels: ctypes.CDLL, shape: tuple[int, int, int, int]) -> None:
    left, rows, index, grad = draw(*shape)
    oracle = left.double().requires_grad_(), rows.double().requires_grad_()
    products = indexed_products_reference(*oracle, index)
    gradients = torch.autograd.grad(products, oracle, grad.double(), materialize_grads=True)
    for seed, schedule in enumerate(Schedule):
        kernels.set_schedule(schedule, seed)
        found = results(kernels, left, rows, index, grad)
        for ours, expected in zip(found, (products, *gradients), strict=True):
            torch.testing.assert_close(ours, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrong", [-1, 4])
def test_a_wrong_index_ends_the_kernel(kernels: ctypes.CDLL, wrong: int) -> None:
    left, rows, index, grad = draw(3, 5, 4, 2)
    index[2, 1] = wrong
    with pytest.raises(RuntimeError, match="index: expected places among the rows"):
        results(kernels, left, rows, index, grad)
