"""Every op of the library has all that PyTorch asks of one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.attention_cases import AttentionCase, make_case
from torchrec_gr.doctor import BUILD_OPS
from torchrec_gr.ops.attention_bias import bias_arguments

PREFIX = "torchrec_gr::"
OPS = sorted(
    name.removeprefix(PREFIX)
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith(PREFIX)
)
NOT_DIFFERENTIABLE = {
    "cpu_capability",
    "gather_rows",
    "group_requests",
    "id_map_find",
    "id_map_grow",
    "id_map_insert_",
    "id_map_remove_",
    "init_rows_",
    "route_ids",
    "rows_to_evict",
    "touch_rows_",
    "unique_ids",
    "update_rows_",
}
"""They take no floats, or tables' rows, whose gradients are given to update_rows_."""


def _forward(case: AttentionCase, *scale: float) -> tuple[Any, ...]:
    spans = case.spans
    biases = bias_arguments(case.bias)
    values = case.positional()[:5]
    return *values, spans.start, spans.end, spans.own, *biases, case.max_seq_len, 0.5, *scale


def _backward(case: AttentionCase, *scale: float) -> tuple[Any, ...]:
    """Of tensors without gradients: there is no second derivative."""
    arguments = _forward(case, *scale)
    values = [x.detach() if isinstance(x, Tensor) else x for x in arguments]
    grad = torch.randn(*case.q.shape[:2], case.v.shape[2])
    if scale:
        return grad, *values
    return grad, *torch.ops.torchrec_gr.jagged_softmax_attention(*values), *values


ATTENTION_CASES = [
    make_case([2, 0, 3], [2, 0, 3]),
    make_case([2, 0, 3], [4, 1, 3], own="given", bias="given", dims=(8, 8)),
    make_case([2, 0, 3], [4, 1, 3], bias="default"),
    make_case([0], [0], bias="default"),
]
OF_TWO_TABLES = torch.tensor([5, -1, 5]), torch.tensor([0, 2, 3])
SLOTS = torch.tensor([1, 0, 1 << 16])


def _id_map() -> tuple[Tensor, list[Tensor], list[int]]:
    return (
        torch.zeros(16, dtype=torch.int64),
        [torch.zeros(2).long(), torch.zeros(3).long()],
        [0, 1],
    )


def _filled_id_map() -> tuple[Tensor, list[Tensor], list[int]]:
    arguments = _id_map()
    torch.ops.torchrec_gr.id_map_insert_(*arguments, *OF_TWO_TABLES, SLOTS)
    return arguments


def _seen() -> list[Tensor]:
    return [torch.ones(2, 2, dtype=torch.int32), torch.ones(3, 2, dtype=torch.int32)]


def _weights_and_states() -> tuple[list[Tensor], list[Tensor]]:
    return [torch.ones(2, 4), torch.ones(3, 4)], [torch.ones(2), torch.ones(3)]


def _vectors_and_rows() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 5), torch.randn(4, 5)


JAGGED = torch.tensor([0, 2, 2, 3]), torch.tensor([0, 1, 2, 2], dtype=torch.int32)

Samples = Callable[[], list[tuple[Any, ...]]]
SAMPLES: dict[str, Samples] = {
    "gather_rows": lambda: [
        (_weights_and_states()[0], SLOTS, 4, None, None, None),
        (_weights_and_states()[0], SLOTS, 4, torch.tensor([2, 2]), torch.tensor([0, 2]), None),
        ([], SLOTS[:0], 4, None, None, None),
    ],
    "group_requests": lambda: [
        (torch.tensor([1, 2, 1, 2, 3]), torch.tensor([0, 2, 4, 5]), 7),
        (torch.tensor([[1, 5], [1, 6]], dtype=torch.int32), torch.tensor([0, 1, 1, 2]), 7),
    ],
    "hstu_attention": lambda: [_forward(case, 0.1) for case in ATTENTION_CASES],
    "hstu_attention_backward": lambda: [_backward(case, 0.1) for case in ATTENTION_CASES],
    "id_map_find": lambda: [(*_filled_id_map(), *OF_TWO_TABLES)],
    "id_map_grow": lambda: [(_filled_id_map()[0], 32)],
    "id_map_insert_": lambda: [(*_id_map(), *OF_TWO_TABLES, SLOTS)],
    "id_map_remove_": lambda: [(*_filled_id_map(), SLOTS[1:])],
    "init_rows_": lambda: [(*_weights_and_states(), SLOTS, SLOTS, 0, 0.1)],
    "indexed_products": lambda: [
        (*(x.requires_grad_() for x in _vectors_and_rows()), (SLOTS % 4).view(3, 1)),
        (*(x.requires_grad_() for x in _vectors_and_rows()), SLOTS.view(3, 1)[:, :0]),
    ],
    "indexed_products_backward": lambda: [
        (torch.randn(3, 1), *_vectors_and_rows(), (SLOTS % 4).view(3, 1))
    ],
    "jagged_concat": lambda: [
        (torch.randn(3, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True), *JAGGED)
    ],
    "jagged_softmax_attention": lambda: [_forward(case) for case in ATTENTION_CASES],
    "jagged_softmax_attention_backward": lambda: [_backward(case) for case in ATTENTION_CASES],
    "jagged_split": lambda: [(torch.randn(5, 4, requires_grad=True), *JAGGED, 3)],
    "pool_rows": lambda: [
        (torch.randn(4, 3, requires_grad=True), SLOTS % 4, torch.tensor([0, 1, 3]), None),
        (torch.randn(4, 3, requires_grad=True), SLOTS % 4, None, torch.rand(3)),
    ],
    "route_ids": lambda: [(*OF_TWO_TABLES, 3)],
    "rows_to_evict": lambda: [(_filled_id_map()[1], _seen(), [0, 1], 2, "lru", 7)],
    "sum_rows": lambda: [
        (torch.randn(2, 3, requires_grad=True), SLOTS % 4, torch.tensor([0, 1, 3]), None, 4),
        (torch.randn(3, 3, requires_grad=True), SLOTS % 4, None, torch.rand(3), 4),
    ],
    "touch_rows_": lambda: [(_seen(), SLOTS, torch.tensor([1, 0, 2]), 5)],
    "unique_ids": lambda: [(*OF_TWO_TABLES, None), (*OF_TWO_TABLES, torch.tensor([1, 0, 2]))],
    "update_rows_": lambda: [
        (
            *_weights_and_states(),
            SLOTS,
            torch.tensor([0, 3]),
            torch.ones(3, 4),
            *(None, None, None),
            *(["rowwise_adagrad"], [0.1], [1e-8]),
        )
    ],
}


def test_without_the_library_the_import_says_how_to_build_it() -> None:
    without = "import sys; sys.modules['torchrec_gr._C'] = None; import torchrec_gr.ops"
    done = subprocess.run(
        [sys.executable, "-c", without],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "ImportError: torchrec_gr: its compiled ops do not load" in done.stderr
    assert BUILD_OPS in done.stderr


def test_the_ops_are_there() -> None:
    assert {"hstu_attention", "jagged_softmax_attention_backward"} < set(OPS)
    assert set(OPS) >= NOT_DIFFERENTIABLE


@pytest.mark.parametrize("op", OPS)
def test_has_a_cpu_kernel_and_a_fake(op: str) -> None:
    has_kernel = torch._C._dispatch_has_computed_kernel_for_dispatch_key
    assert has_kernel(PREFIX + op, "CPU")
    assert has_kernel(PREFIX + op, "Meta")


@pytest.mark.parametrize("op", OPS)
def test_has_gradients_or_is_known_to_have_none(op: str) -> None:
    registered = torch._C._dispatch_has_kernel_for_dispatch_key(PREFIX + op, "Autograd")
    assert registered or op in NOT_DIFFERENTIABLE


@pytest.mark.parametrize("op", [op for op in OPS if op != "cpu_capability"])  # no tensors
def test_opcheck(op: str) -> None:
    for sample in SAMPLES[op]():
        torch.library.opcheck(getattr(torch.ops.torchrec_gr, op).default, sample)
