"""What both attention ops tell PyTorch: result shapes for tracing, gradients for autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

_TENSORS = (
    "q",
    "k",
    "v",
    "q_offsets",
    "k_offsets",
    "spans.start",
    "spans.end",
    "spans.own",
    "bias.slopes",
    "bias.position_table",
    "bias.time_table",
    "bias.q_positions",
    "bias.k_positions",
    "bias.q_times",
    "bias.k_times",
)
"""The ops' tensor arguments in the order of their schemas; numbers follow."""

_DIFFERENTIABLE = [
    _TENSORS.index(name)
    for name in ("q", "k", "v", "bias.slopes", "bias.position_table", "bias.time_table")
]


def empty_output(*arguments: Any) -> Tensor:
    """An output for the tracer, [Tq, H, V].

    Raises:
        ValueError: tensors are on different devices, of which none has a kernel that would say it.
    """
    q, _, v = arguments[:3]
    for name, x in zip(_TENSORS, arguments, strict=False):
        if x is not None and x.device != q.device:
            raise ValueError(f"{name}: expected the device of q, {q.device}; got {x.device}")
    return q.new_empty(q.shape[0], q.shape[1], v.shape[2])


def empty_gradients(*arguments: Any) -> tuple[Tensor, ...]:
    """Gradients for the tracer: those of q, k, v and the tables, empty where there is no table."""
    given = (arguments[place] for place in _DIFFERENTIABLE)
    absent = arguments[0].new_empty(0, dtype=torch.float32)
    return tuple(absent.new_empty(0) if x is None else x.new_empty(x.shape) for x in given)


def save_arguments(ctx: Any, arguments: Sequence[Any], *results: Tensor) -> None:
    """Keeps what the backward op takes after the gradient of the output."""
    ctx.save_for_backward(*results, *arguments[: len(_TENSORS)])
    ctx.numbers = arguments[len(_TENSORS) :]


def argument_gradients(ctx: Any, gradients: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The results of the backward op, put in the places of the forward op's arguments."""
    of_argument = dict(zip(_DIFFERENTIABLE, gradients, strict=True))
    return tuple(
        of_argument.get(place) if needed else None
        for place, needed in enumerate(ctx.needs_input_grad)
    )


def refuse_second_derivative(ctx: Any, *grads: Tensor) -> NoReturn:
    """Autograd's formula of a backward op."""
    raise NotImplementedError(
        "this op has no second derivative: call autograd without create_graph"
    )
