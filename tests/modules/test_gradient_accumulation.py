"""A batch in pieces against the whole batch: loss and every gradient."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.modules.accumulation_cases import Batch, Sequences, gradients_of, loss_body, whole_batch
from torchrec_gr.modules.gradient_accumulation import Body, accumulate

CUTS = [[9], [4, 5], [2, 1, 6], [1, 1, 1, 1, 1, 3, 1]]  # the third row is empty


@pytest.mark.parametrize("num_rows", CUTS)
@pytest.mark.parametrize("float64", [True, False])
def test_loss_and_gradients_are_those_of_the_whole_batch(
    num_rows: list[int], float64: bool
) -> None:
    model, batch = Sequences(float64), Batch(float64)
    expected, logits = whole_batch(model, batch)
    loss, others = accumulate(loss_body(model), batch.pieces(num_rows), model.parameters())
    assert len(others) == len(num_rows)
    assert not any(other.requires_grad for other in others)
    tight = {"rtol": 1e-12, "atol": 1e-13} if float64 else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(torch.cat(others), logits.detach(), **tight)
    torch.testing.assert_close(loss, expected, **tight)
    torch.testing.assert_close(
        gradients_of(loss, model, batch), gradients_of(expected, model, batch), **tight
    )


def test_one_piece_is_the_whole_batch_to_the_bit_under_autocast() -> None:
    model, batch = Sequences(float64=False), Batch()
    with torch.autocast("cpu", torch.bfloat16):
        expected, _ = whole_batch(model, batch)
        loss, _ = accumulate(loss_body(model), batch.pieces([9]), model.parameters())
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(loss, expected)
    ours, theirs = gradients_of(loss, model, batch), gradients_of(expected, model, batch)
    assert all(map(torch.equal, ours, theirs))


def test_pieces_under_autocast_are_the_whole_batch_to_rounding() -> None:
    model, batch = Sequences(float64=False), Batch()
    with torch.autocast("cpu", torch.bfloat16):
        expected, _ = whole_batch(model, batch)
        loss, _ = accumulate(loss_body(model), batch.pieces([2, 3, 4]), model.parameters())
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    ours, theirs = gradients_of(loss, model, batch), gradients_of(expected, model, batch)
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=1e-4)


def test_backward_leaves_every_gradient_and_adds_to_those_there() -> None:
    model, batch = Sequences(float64=True), Batch(float64=True)
    whole_batch(model, batch)[0].backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    for _ in range(2):
        model.zero_grad()
        loss, _ = accumulate(loss_body(model), batch.pieces([4, 5]), model.parameters())
        loss.backward(retain_graph=True)
        loss.backward()
        for name, parameter in model.named_parameters():
            if name == "frozen":
                assert parameter.grad is None
            elif name == "unused":
                assert not parameter.grad.any()
            else:
                torch.testing.assert_close(parameter.grad, 2 * expected[name])
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_a_gradient_of_some_inputs_only() -> None:
    model, batch = Sequences(float64=True), Batch(float64=True)
    loss, _ = accumulate(loss_body(model), batch.pieces([4, 5]), model.parameters())
    expected, _ = whole_batch(model, batch)
    inputs = [model.head.weight, model.projection.bias]
    torch.testing.assert_close(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs)
    )


def test_what_is_shared_is_counted_as_often_as_it_is_used() -> None:
    shared = nn.Parameter(torch.tensor([2.0, 3.0]))
    other = nn.Parameter(torch.tensor([1.0, 1.0]))

    def body(piece: tuple[Tensor, ...], number: int) -> tuple[Tensor, Tensor]:
        loss = (piece[0] + shared + other).sum() * (number + 1)  # one gradient tensor for all three
        return loss, loss

    pieces = [(shared * 10,), (shared * 10,)]
    loss, others = accumulate(body, pieces, [shared, other, shared])
    loss.backward()
    assert torch.stack(others).sum() == loss.detach()
    assert shared.grad.tolist() == [33.0, 33.0]
    assert other.grad.tolist() == [3.0, 3.0]


def test_without_gradients_the_pieces_just_run() -> None:
    model, batch = Sequences(float64=True), Batch(float64=True)
    seen: list[bool] = []
    body = loss_body(model)

    def watched(piece: tuple[Tensor, ...], number: int) -> tuple[Tensor, Tensor]:
        loss, other = body(piece, number)
        seen.append(loss.requires_grad)
        return loss, other

    with torch.no_grad():
        loss, others = accumulate(watched, batch.pieces([4, 5]), model.parameters())
    assert seen == [False, False]
    torch.testing.assert_close(loss, whole_batch(model, batch)[0].detach())
    assert not loss.requires_grad
    assert len(others) == 2
    model.requires_grad_(False)
    batch.values.requires_grad_(False)
    loss, _ = accumulate(watched, batch.pieces([4, 5]), model.parameters())
    assert not loss.requires_grad
    assert not any(seen)


def test_a_body_whose_loss_needs_no_gradient_leaves_zeros() -> None:
    x, weight = torch.ones(3, requires_grad=True), nn.Parameter(torch.ones(2))
    loss, _ = accumulate(lambda piece, number: (torch.zeros(()), piece[0]), [(x,), (x,)], [weight])
    loss.backward()
    assert x.grad.tolist() == [0, 0, 0]
    assert weight.grad.tolist() == [0, 0]


class _Saved:
    """Counts the tensors that autograd keeps, while it keeps them."""

    def __init__(self) -> None:
        self.alive: weakref.WeakSet[_Saved._Box] = weakref.WeakSet()

    class _Box:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    def pack(self, tensor: Tensor) -> _Box:
        box = self._Box(tensor)
        self.alive.add(box)
        return box


def _live_before_pieces(
    run: Callable[[Body], object], model: nn.Module
) -> tuple[list[int], list[int]]:
    """How many saved tensors are alive before each call of the body, and after its forward."""
    saved, before, after, body = _Saved(), [], [], loss_body(model)

    def watched(piece: tuple[Tensor, ...], number: int) -> tuple[Tensor, Tensor]:
        before.append(len(saved.alive))
        result = body(piece, number)
        after.append(len(saved.alive))
        return result

    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda box: box.tensor):
        run(watched)
    return before, after


def test_one_pieces_activations_live_at_a_time() -> None:
    model, batch = Sequences(float64=False), Batch()
    pieces = batch.pieces([2, 3, 4])
    before, after = _live_before_pieces(
        lambda body: accumulate(body, pieces, model.parameters()), model
    )
    assert before == [0, 0, 0]
    assert after[0] > 0
    assert after == [after[0]] * 3

    def keep_all(body: Body) -> object:
        return [body(piece, number) for number, piece in enumerate(pieces)]

    before, after = _live_before_pieces(keep_all, model)  # so the count does count
    assert before == [0, after[0], 2 * after[0]]


def test_autocast_keeps_no_piece() -> None:
    model, batch, seen = Sequences(float64=False), Batch(), []
    body = loss_body(model)

    def watched(piece: tuple[Tensor, ...], number: int) -> tuple[Tensor, Tensor]:
        seen.append(weakref.ref(piece[0]))
        return body(piece, number)

    with torch.autocast("cpu", torch.bfloat16):
        accumulate(watched, batch.pieces([4, 5]), model.parameters())
        assert [x() for x in seen] == [None, None]


def test_other_tensors_keep_no_graph() -> None:
    alive: list[Any] = []

    def body(piece: tuple[Tensor, ...], number: int) -> tuple[Tensor, Tensor]:
        assert all(hidden() is None for hidden in alive)
        hidden = piece[0].exp()
        alive.append(weakref.ref(hidden))
        return hidden.sum(), hidden * 2

    x = torch.ones(4, requires_grad=True)
    loss, others = accumulate(body, [(part,) for part in x.split(2)], [])
    assert all(hidden() is None for hidden in alive)
    loss.backward()
    torch.testing.assert_close(x.grad, x.detach().exp())
    assert torch.equal(torch.cat(others), 2 * x.detach().exp())


def test_refuses_a_body_whose_gradients_would_be_lost() -> None:
    model, batch = Sequences(float64=True), Batch(float64=True)
    pieces = batch.pieces([4, 5])
    parameters = [p for p in model.parameters() if p is not model.head.weight]
    with pytest.raises(ValueError, match=r"body reads a tensor of shape \[1, 8\] that wants"):
        accumulate(loss_body(model), pieces, parameters)
    captured = torch.ones(2, 3, requires_grad=True)

    def body(piece: tuple[Tensor, ...], number: int) -> tuple[Tensor, Tensor]:
        loss = piece[0].sum() + (captured * 2).sum()
        return loss, loss

    with pytest.raises(ValueError, match=r"body reads a tensor of shape \[2, 3\]"):
        accumulate(body, pieces, [])


def test_refuses_what_is_no_sum_over_pieces() -> None:
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="pieces: expected one or more, got none"):
        accumulate(lambda piece, number: (piece[0].sum(), piece[0]), [], [])
    with pytest.raises(ValueError, match=r"piece 0's loss, 0-dim; got \[3\]"):
        accumulate(lambda piece, number: (piece[0], piece[0]), [(x,)], [])
    with torch.no_grad(), pytest.raises(ValueError, match=r"piece 0's loss, 0-dim; got \[3\]"):
        accumulate(lambda piece, number: (piece[0], piece[0]), [(x,)], [])
