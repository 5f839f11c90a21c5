"""Gradients of a batch, worked out piece by piece inside one step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Body = Callable[[tuple[Tensor, ...], int], tuple[Tensor, Tensor]]


def accumulate(
    body: Body, pieces: Sequence[tuple[Tensor, ...]], parameters: Iterable[nn.Parameter]
) -> tuple[Tensor, list[Tensor]]:
    """Sums a body's loss over the pieces of a batch, keeping one piece's activations at a time.

    Each piece's gradients are taken as soon as its loss is known; nothing is computed twice. To
    whatever lies before and after, the pieces are one: every input and every parameter gets its
    gradient once, in the step's one backward pass. So tables that are looked up once for the whole
    batch are updated once, by fused optimizers too, and DistributedDataParallel averages once. What
    has no part in any loss gets zeros. Without gradients (`torch.no_grad`) the pieces just run.

    Under torch.autocast gradients are taken outside its region, as those of a whole step are. Once
    differentiable.

    Args:
        body: given a piece and its number, returns a 0-dim loss, summed over the piece, not
            averaged; and another tensor, such as logits, whose gradient nobody needs. May be
            given empty tensors.
        pieces: one or more; each the body's inputs, of any shapes and dtypes. Cut them with
            `Tensor.split`, whose gradient is a single concatenation.
        parameters: all that the body reads.

    Returns:
        The sum of the losses, 0-dim, differentiable in pieces and parameters; and the body's other
        tensors, one a piece, detached.

    Raises:
        ValueError: no piece, a loss that is not 0-dim, or a body that reads a tensor that wants a
            gradient and is neither in its piece nor a parameter: its gradient would be lost.
    """
    if not pieces:
        raise ValueError("pieces: expected one or more, got none; an empty batch is an empty piece")
    others: list[Tensor] = []
    if torch.is_grad_enabled():
        sizes = [len(piece) for piece in pieces]
        inputs = [x for piece in pieces for x in piece]
        unique = dict.fromkeys(parameters)  # one that was given twice would count twice
        return _Accumulate.apply(body, sizes, others, *inputs, *unique), others
    losses = []
    for number, piece in enumerate(pieces):
        loss, other = _run(body, piece, number)
        losses.append(loss)
        others.append(other.detach())
    return torch.stack(losses).sum(), others


class _Accumulate(torch.autograd.Function):
    """`accumulate`: forward takes the gradients of the sum, backward scales them."""

    @staticmethod
    def forward(
        ctx: Any, body: Body, sizes: Sequence[int], others: list[Tensor], *tensors: Tensor
    ) -> Tensor:
        inputs = iter(tensors)
        pieces = [[_leaf(x) for x in islice(inputs, size)] for size in sizes]
        parameters = [p for p in inputs if p.requires_grad]
        of_parameters = [torch.zeros_like(p) for p in parameters]
        of_inputs: list[Tensor] = []
        losses = []
        for number, piece in enumerate(pieces):
            loss, other, gradients = _run_and_differentiate(body, piece, number, parameters)
            losses.append(loss)
            others.append(other)
            num_inputs = len(gradients) - len(parameters)
            of_inputs += gradients[:num_inputs]
            for total, gradient in zip(of_parameters, gradients[num_inputs:], strict=True):
                total += gradient
        ctx.save_for_backward(*of_inputs, *of_parameters)
        return torch.stack(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = iter(ctx.saved_tensors)
        wanted = ctx.needs_input_grad[3:]
        return (None, None, None, *(next(gradients) * grad if w else None for w in wanted))


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(x.requires_grad)


def _run_and_differentiate(
    body: Body, piece: Sequence[Tensor], number: int, parameters: Sequence[Tensor]
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """A piece's loss and other tensor, and the gradients of its leaves and the parameters.

    Of what this made, nothing else outlives it.
    """
    wanted = [*(x for x in piece if x.requires_grad), *parameters]
    with torch.enable_grad():
        # Views, since autocast keeps its casts of leaves until its region ends.
        loss, other = _run(body, tuple(x.view_as(x) for x in piece), number)
    if not loss.requires_grad:
        return loss, other.detach(), tuple(torch.zeros_like(x) for x in wanted)
    _check_leaves(loss, wanted)
    with torch.autocast(loss.device.type, enabled=False):
        gradients = torch.autograd.grad(loss, wanted, materialize_grads=True)
    return loss.detach(), other.detach(), gradients


def _run(body: Body, piece: tuple[Tensor, ...], number: int) -> tuple[Tensor, Tensor]:
    loss, other = body(piece, number)
    if loss.ndim:
        raise ValueError(
            f"body: expected the sum of piece {number}'s loss, 0-dim; got {list(loss.shape)}"
        )
    return loss, other


def _check_leaves(loss: Tensor, known: Sequence[Tensor]) -> None:
    """Raises ValueError if a loss depends on a leaf that is not known."""
    ids = {id(x) for x in known}
    nodes: list[Any] = [loss.grad_fn]
    seen = {None}
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in ids:
            raise ValueError(
                f"body reads a tensor of shape {list(leaf.shape)} that wants a gradient and is "
                "neither in its piece nor among the parameters: pass it, or detach it"
            )
        nodes += [parent for parent, _ in node.next_functions]
