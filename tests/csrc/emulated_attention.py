"""The library that emulated_attention.cpp becomes, and an attention op over it."""

from __future__ import annotations

import ctypes
import dataclasses
import enum
import math
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchrec_gr.ops import AttentionBias, KeySpans

MARGIN = 64  # poisoned elements on either side of every tensor


class Schedule(enum.IntEnum):
    IN_ORDER = 0
    REVERSED = 1
    SHUFFLED = 2
    RUN_AHEAD = 3


# The structures of csrc/attention.h.


class Rows(Structure):
    _fields_ = (("data", c_void_p), ("token_stride", c_int64), ("head_stride", c_int64))


class BiasTable(Structure):
    _fields_ = (("data", c_void_p), ("head_stride", c_int64), ("width", c_int64))


class Bias(Structure):
    _fields_ = (
        ("slopes", c_void_p),
        ("position_table", BiasTable),
        ("time_table", BiasTable),
        ("q_positions", c_void_p),
        ("k_positions", c_void_p),
        ("q_times", c_void_p),
        ("k_times", c_void_p),
    )


class AttentionProblem(Structure):
    _fields_ = (
        ("type", c_int),
        ("num_rows", c_int64),
        ("num_heads", c_int),
        ("qk_dim", c_int),
        ("v_dim", c_int),
        ("max_seq_len", c_int64),
        ("q_offsets", c_void_p),
        ("k_offsets", c_void_p),
        ("start", c_void_p),
        ("end", c_void_p),
        ("own", c_void_p),
        ("q", Rows),
        ("k", Rows),
        ("v", Rows),
        ("bias", Bias),
        ("alpha", c_float),
        ("scale", c_float),
    )


class AttentionOutput(Structure):
    _fields_ = (("output", Rows), ("log_sum_exp", c_void_p))


class AttentionGradients(Structure):
    _fields_ = (
        ("grad_output", Rows),
        ("output", Rows),
        ("log_sum_exp", c_void_p),
        ("dq", Rows),
        ("dk", Rows),
        ("dv", Rows),
        ("dslopes", c_void_p),
        ("dposition_table", c_void_p),
        ("dtime_table", c_void_p),
    )


class Memory:
    """Tensors of one call, each between margins of NaN, or of a large number, that must last."""

    def __init__(self) -> None:
        self._margins: list[tuple[Tensor, Tensor]] = []

    def blank(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Poison all over."""
        poison = float("nan") if dtype.is_floating_point else 1 << 29
        size = math.prod(shape)
        buffer = torch.full((size + 2 * MARGIN,), poison, dtype=dtype)
        for margin in (buffer[:MARGIN], buffer[MARGIN + size :]):
            self._margins.append((margin, margin.clone()))
        return buffer[MARGIN : MARGIN + size].view(*shape)

    def copy(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """x itself where it has gaps, which a copy would lose."""
        if not x.is_contiguous():
            return x.detach()
        return self.blank(x.shape, dtype or x.dtype).copy_(x.detach())

    def pointer(self, x: Tensor | None, dtype: torch.dtype) -> int | None:
        return None if x is None else self.copy(x, dtype).data_ptr()

    def table(self, x: Tensor | None) -> BiasTable:
        if x is None:
            return BiasTable()
        stride = 0 if x.shape[0] == 1 else x.shape[1]
        return BiasTable(self.pointer(x, torch.float32), stride, x.shape[1])

    def assert_margins_last(self) -> None:
        for margin, before in self._margins:
            assert torch.equal(margin.view(torch.uint8), before.view(torch.uint8))


def rows(x: Tensor) -> Rows:
    return Rows(x.data_ptr(), x.stride(0), x.stride(1))


@dataclasses.dataclass
class Arguments:
    """What the op over emulated kernels is called with, defaults filled in."""

    q: Tensor
    k: Tensor
    v: Tensor
    q_offsets: Tensor
    k_offsets: Tensor
    spans: KeySpans
    bias: AttentionBias
    max_seq_len: int
    alpha: float
    scale: float

    @property
    def tables(self) -> list[Tensor | None]:
        return [self.bias.slopes, self.bias.position_table, self.bias.time_table]

    def problem(self, memory: Memory) -> AttentionProblem:
        q, k, v = memory.copy(self.q), memory.copy(self.k), memory.copy(self.v)
        return AttentionProblem(
            0 if q.dtype == torch.float32 else 1,
            len(self.q_offsets) - 1,
            *q.shape[1:],
            v.shape[2],
            self.max_seq_len,
            memory.pointer(self.q_offsets, torch.int64),
            memory.pointer(self.k_offsets, torch.int64),
            memory.pointer(self.spans.start, torch.int32),
            memory.pointer(self.spans.end, torch.int32),
            memory.pointer(self.spans.own, torch.int32),
            rows(q),
            rows(k),
            rows(v),
            Bias(
                memory.pointer(self.bias.slopes, torch.float32),
                memory.table(self.bias.position_table),
                memory.table(self.bias.time_table),
                memory.pointer(self.bias.q_positions, torch.int32),
                memory.pointer(self.bias.k_positions, torch.int32),
                memory.pointer(self.bias.q_times, torch.int64),
                memory.pointer(self.bias.k_times, torch.int64),
            ),
            self.alpha,
            self.scale,
        )


class EmulatedKernels:
    """The library. Raises RuntimeError where a kernel ends itself or the emulation refuses it."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.barrier_name.restype = c_char_p
        for name, results in (("forward", AttentionOutput), ("backward", AttentionGradients)):
            function = getattr(self._library, name)
            function.restype = c_char_p
            function.argtypes = [
                c_bool,
                POINTER(AttentionProblem),
                POINTER(results),
                c_int64,
                c_int64,
            ]
        for name, structure in (("problem", AttentionProblem), ("gradients", AttentionGradients)):
            size = getattr(self._library, f"size_of_{name}")
            size.restype = c_size_t
            assert size() == ctypes.sizeof(structure), f"{name}: not as in csrc/attention.h"

    def set_schedule(self, schedule: Schedule, seed: int = 0) -> None:
        self._library.set_schedule(c_int(schedule), seed)

    def barriers(self) -> list[str]:
        """Where the barriers stand that kernels have met so far."""
        return [self._library.barrier_name(i).decode() for i in range(self._library.num_barriers())]

    def leave_out(self, barrier: int) -> None:
        self._library.leave_out_barrier(barrier)

    def forward(self, softmax: bool, arguments: Arguments) -> tuple[Tensor, Tensor]:
        """Output and log_sum_exp."""
        q, v = arguments.q, arguments.v
        memory = Memory()
        output = memory.blank((*q.shape[:2], v.shape[2]), q.dtype)
        log_sum_exp = memory.blank(q.shape[:2], torch.float32)
        results = AttentionOutput(rows(output), log_sum_exp.data_ptr())
        self._run("forward", softmax, arguments, results, memory)
        return output, log_sum_exp

    def backward(
        self,
        softmax: bool,
        arguments: Arguments,
        grad: Tensor,
        output: Tensor,
        log_sum_exp: Tensor,
    ) -> list[Tensor | None]:
        """Gradients of q, k, v, slopes, position_table, time_table."""
        memory = Memory()
        of_values = [
            memory.blank(x.shape, x.dtype) for x in (arguments.q, arguments.k, arguments.v)
        ]
        of_tables = [
            None if x is None else memory.blank(x.shape, torch.float32) for x in arguments.tables
        ]
        results = AttentionGradients(
            rows(memory.copy(grad.contiguous())),
            rows(output),
            log_sum_exp.data_ptr(),
            *map(rows, of_values),
            *(None if x is None else x.data_ptr() for x in of_tables),
        )
        self._run("backward", softmax, arguments, results, memory)
        return [*of_values, *of_tables]

    def _run(
        self, name: str, softmax: bool, arguments: Arguments, results: Structure, memory: Memory
    ) -> None:
        problem = arguments.problem(memory)
        function = getattr(self._library, name)
        message = function(softmax, problem, results, len(arguments.q), len(arguments.k))
        if message is not None:
            raise RuntimeError(message.decode())
        memory.assert_margins_last()

    def hstu_attention(self, *arguments: Any, **options: Any) -> Tensor:
        """The op over these kernels."""
        return self._attend(False, *arguments, **options)

    def softmax_attention(self, *arguments: Any, **options: Any) -> Tensor:
        """The op jagged_softmax_attention over these kernels."""
        return self._attend(True, *arguments, **options)

    def _attend(
        self,
        softmax: bool,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_offsets: Tensor,
        k_offsets: Tensor,
        spans: KeySpans,
        *,
        max_seq_len: int,
        alpha: float | None = None,
        scale: float | None = None,
        bias: AttentionBias | None = None,
    ) -> Tensor:
        alpha = q.shape[2] ** -0.5 if alpha is None else alpha
        scale = 1.0 if softmax else 1.0 / max_seq_len if scale is None else scale
        bias = bias or AttentionBias()
        arguments = Arguments(q, k, v, q_offsets, k_offsets, spans, bias, max_seq_len, alpha, scale)
        leaves = [q, k, v, *arguments.tables]
        return _EmulatedAttention.apply(self, softmax, arguments, *leaves)


class _EmulatedAttention(torch.autograd.Function):
    """The leaves are those of the arguments, named for autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: EmulatedKernels,
        softmax: bool,
        arguments: Arguments,
        *leaves: Tensor | None,
    ) -> Tensor:
        ctx.call = kernels, softmax, arguments
        ctx.results = kernels.forward(softmax, arguments)
        return ctx.results[0].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kernels, softmax, arguments = ctx.call
        return None, None, None, *kernels.backward(softmax, arguments, grad, *ctx.results)
