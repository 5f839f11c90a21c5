"""The attention ops on a GPU against their references, where there is a GPU."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.attention_cases import (
    REFERENCES,
    Attention,
    AttentionCase,
    assert_near_the_oracle,
    both_dtypes,
    both_ops,
    make_case,
    output_and_gradients,
    over_cases,
)

DEVICE = "cuda"

pytestmark = [
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch sees no GPU: CUDA kernels are not run"
    ),
    pytest.mark.skipif(
        not torch._C._dispatch_has_kernel_for_dispatch_key("torchrec_gr::hstu_attention", "CUDA"),
        reason="torchrec_gr is built without CUDA kernels (TORCHREC_GR_CUDA=1 builds them)",
    ),
]


def moved(x: Any) -> Any:
    """A tensor, or a dataclass of tensors, on the GPU."""
    if isinstance(x, Tensor):
        return x.to(DEVICE)
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        fields = {field.name: moved(getattr(x, field.name)) for field in dataclasses.fields(x)}
        return dataclasses.replace(x, **fields)
    return x


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """on_gpu(op) is the op for tensors of the CPU, computed on the GPU, with the same reference."""

    def of(op: Attention) -> Attention:
        def attend(*arguments: Any, **options: Any) -> Tensor:
            on_device = {name: moved(value) for name, value in options.items()}
            return op(*map(moved, arguments), **on_device).cpu()

        monkeypatch.setitem(REFERENCES, attend, REFERENCES[op])
        return attend

    return of


@both_ops
@both_dtypes
@over_cases
def test_near_the_reference(
    on_gpu: Any, attend: Attention, dtype: torch.dtype, case: AttentionCase
) -> None:
    assert_near_the_oracle(on_gpu(attend), case.to(dtype))
    assert_near_the_oracle(on_gpu(attend), case.to(dtype), alpha=0.7)


@both_ops
@both_dtypes
@pytest.mark.parametrize(
    "dims", [(1, 1), (25, 50), (64, 64), (128, 128), (130, 16), (16, 130), (256, 256)], ids=str
)
def test_any_width(
    on_gpu: Any, attend: Attention, dtype: torch.dtype, dims: tuple[int, int]
) -> None:
    case = make_case([5, 0, 400], [5, 3, 400], dims=dims, dtype=dtype)
    assert_near_the_oracle(on_gpu(attend), case)


@both_ops
@both_dtypes
def test_every_run_gives_the_same_bits(on_gpu: Any, attend: Attention, dtype: torch.dtype) -> None:
    case = make_case([500, 3, 900], [500, 3, 900], bias="given", dtype=dtype, max_seq_len=1000)
    first, second = (output_and_gradients(on_gpu(attend), case) for _ in range(2))
    for name, values in first.items():
        assert torch.equal(values, second[name]), name
