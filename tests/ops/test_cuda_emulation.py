"""The CUDA attention kernels, run on the host in emulation (tests/csrc/cuda_emulation.h).

This checks their logic. It says nothing about a GPU's memory ordering, fast functions or speed.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import faulthandler
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.csrc.emulated_attention import EmulatedKernels, Schedule
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
from torchrec_gr.ops import KeySpans, hstu_attention, jagged_softmax_attention


@pytest.fixture(scope="session")
def library(compile_for_host: Callable[[str], Path]) -> EmulatedKernels:
    return EmulatedKernels(compile_for_host("emulated_attention"))


@pytest.fixture
def kernels(library: EmulatedKernels, monkeypatch: pytest.MonkeyPatch) -> EmulatedKernels:
    """Warps run ahead, unless a test wants it otherwise."""
    library.set_schedule(Schedule.RUN_AHEAD, seed=1)
    for op, reference in list(REFERENCES.items()):
        monkeypatch.setitem(REFERENCES, emulated(op, library), reference)
    return library


def emulated(op: Attention, kernels: EmulatedKernels) -> Attention:
    """The op over emulated kernels."""
    return kernels.softmax_attention if op is jagged_softmax_attention else kernels.hstu_attention


@both_ops
@both_dtypes
@over_cases
def test_near_the_reference(
    kernels: EmulatedKernels, attend: Attention, dtype: torch.dtype, case: AttentionCase
) -> None:
    assert_near_the_oracle(emulated(attend, kernels), case.to(dtype))


@both_ops
@both_dtypes
@pytest.mark.parametrize(
    "dims", [(1, 1), (25, 50), (50, 25), (64, 64), (130, 16), (16, 130), (256, 256)], ids=str
)
def test_any_width(
    kernels: EmulatedKernels, attend: Attention, dtype: torch.dtype, dims: tuple[int, int]
) -> None:
    case = make_case([5, 0, 40], [5, 3, 70], dims=dims, own="given", bias="given", dtype=dtype)
    assert_near_the_oracle(emulated(attend, kernels), case)


def candidates() -> AttentionCase:
    """Candidates that see the whole history of their row, and stand at one position after it."""
    case = make_case([40, 5], [66, 5], own="none", bias="given")
    assert case.bias is not None
    spans = KeySpans(torch.zeros_like(case.spans.start), torch.full_like(case.spans.end, 66))
    spans = dataclasses.replace(spans, own=case.spans.own)
    positions = torch.full((45,), 70, dtype=torch.int32)
    bias = dataclasses.replace(case.bias, q_positions=positions)
    return dataclasses.replace(case, spans=spans, bias=bias)


def many_rows() -> AttentionCase:
    """More rows than a warp searches at once, more tiles than there are partial tables."""
    return make_case([1, 0, 2] * 30, [2, 0, 2] * 30, own="given", bias="given")


def in_one_tensor() -> AttentionCase:
    """q, k and v are slices of one tensor, as a projection to all three leaves them."""
    case = make_case([3, 70], [3, 70])
    qkv = torch.cat([case.q, case.k, case.v], dim=2).detach()
    a = case.q.shape[2]
    parts = (qkv[..., :a], qkv[..., a : 2 * a], qkv[..., 2 * a :])
    q, k, v = (part.requires_grad_() for part in parts)
    return dataclasses.replace(case, q=q, k=k, v=v)


@both_ops
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(candidates(), id="candidates"),
        pytest.param(many_rows(), id="many_rows"),
        pytest.param(in_one_tensor(), id="in_one_tensor"),
        # The gradient of this position table does not fit in shared memory.
        pytest.param(make_case([9], [40], bias="given", max_seq_len=9000), id="long_table"),
    ],
)
def test_special_cases(kernels: EmulatedKernels, attend: Attention, case: AttentionCase) -> None:
    assert_near_the_oracle(emulated(attend, kernels), case)


def no_keys() -> AttentionCase:
    """Queries that see nothing, then keys that nobody sees."""
    case = make_case([3, 0], [4, 5], own="none")
    nowhere = torch.zeros(3, dtype=torch.int32)
    return dataclasses.replace(case, spans=KeySpans(nowhere, nowhere, case.spans.own))


def results(kernels: EmulatedKernels, op: Attention, case: AttentionCase) -> list[Tensor]:
    return list(output_and_gradients(emulated(op, kernels), case).values())


@both_ops
@both_dtypes
def test_every_schedule_gives_the_same_bits(
    kernels: EmulatedKernels, attend: Attention, dtype: torch.dtype
) -> None:
    case = make_case([70, 3, 0], [72, 5, 5], bias="default", dtype=dtype)
    kernels.set_schedule(Schedule.IN_ORDER)
    expected = results(kernels, attend, case)
    for seed, schedule in enumerate(Schedule):
        kernels.set_schedule(schedule, seed)
        for ours, in_order in zip(results(kernels, attend, case), expected, strict=True):
            assert torch.equal(ours, in_order), schedule


def test_a_barrier_left_out_is_noticed(kernels: EmulatedKernels) -> None:
    """Every barrier, and every wait for copies, of every kernel: warps that run ahead show it."""
    cases = [
        make_case([70, 3, 0], [72, 5, 5], bias="default"),
        candidates(),
        many_rows(),
        no_keys(),
    ]
    expected = [results(kernels, hstu_attention, case) for case in cases]

    def notices(case: AttentionCase, right: list[Tensor], barrier: int, seed: int) -> bool:
        """In a process of its own: a kernel that reads too early may end in a crash."""

        def compare() -> None:
            faulthandler.disable()
            kernels.leave_out(barrier)
            kernels.set_schedule(Schedule.RUN_AHEAD, seed)
            same = False
            with contextlib.suppress(RuntimeError):
                ours = results(kernels, hstu_attention, case)
                same = all(torch.equal(x, y) for x, y in zip(ours, right, strict=True))
            os._exit(0 if same else 1)

        process = multiprocessing.get_context("fork").Process(target=compare)
        process.start()
        process.join()
        return process.exitcode != 0

    unnoticed = [
        name
        for barrier, name in enumerate(kernels.barriers())
        if not any(
            notices(case, right, barrier, seed)
            for seed in range(3)
            for case, right in zip(cases, expected, strict=True)
        )
    ]
    assert len(kernels.barriers()) > 20
    assert unnoticed == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q_offsets": [1, 3, 5]}, "q_offsets, k_offsets: expected to start at 0"),
        ({"q_offsets": [0, 3, 4]}, "q_offsets, k_offsets: expected to end at the number of tokens"),
        ({"k_offsets": [0, 8, 7]}, "q_offsets, k_offsets: expected to rise"),
        ({"own": [0, 0, 4, 0, 0]}, "spans.own: expected -1"),
        ({"own": [0, 0, -2, 0, 0]}, "spans.own: expected -1"),
        ({"own": None, "k_offsets": [0, 2, 7]}, "spans.own: .* to be given where a row has more"),
        ({"q_positions": [0, 0, 72, 0, 0]}, "bias.q_positions, bias.k_positions: .* from 0 to"),
        ({"k_positions": [-1, 0, 0, 0, 0, 0, 0]}, "bias.q_positions, bias.k_positions: .* from 0"),
        ({"q_positions": None}, r"bias.q_positions: .* \(own = -1\)"),
        ({"q_times": None}, r"bias.q_times: .* \(own = -1\)"),
    ],
)
def test_wrong_data_ends_the_kernel(
    kernels: EmulatedKernels, change: dict[str, list[int] | None], message: str
) -> None:
    case = make_case([3, 2], [4, 3], own="none", bias="given")
    for name, numbers in change.items():
        values = None if numbers is None else torch.tensor(numbers, dtype=torch.int32)
        if name == "own":
            case = dataclasses.replace(case, spans=dataclasses.replace(case.spans, own=values))
        elif name.endswith("offsets"):
            case = dataclasses.replace(case, **{name: values})
        else:
            assert case.bias is not None
            case = dataclasses.replace(case, bias=dataclasses.replace(case.bias, **{name: values}))
    with pytest.raises(RuntimeError, match=message):
        case.attend(kernels.hstu_attention)


def test_the_emulation_finds_faults(compile_for_host: Callable[[str], Path]) -> None:
    run_faulty = ctypes.CDLL(str(compile_for_host("faulty_kernels"))).run_faulty
    run_faulty.restype = ctypes.c_char_p
    assert [run_faulty(kernel).decode() for kernel in range(5)] == [
        "a barrier not reached by all threads: faulty_kernels.cpp:7",
        "a warp instruction not reached by all lanes",
        "lanes of a warp at __ballot_sync and __syncwarp",
        "a store past the end of shared memory",
        "copies never waited for",
    ]
