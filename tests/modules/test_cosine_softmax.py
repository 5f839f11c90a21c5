"""The next-item losses against plain cross-entropy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from torchrec_gr.modules.cosine_softmax import IGNORED, full_softmax, sampled_softmax

TEMPERATURE = 0.05


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6)


def _sampled_by_definition(
    hidden: Tensor, table: Tensor, positive_ids: Tensor, negative_ids: Tensor
) -> Tensor:
    losses = []
    for h, positive in zip(hidden, positive_ids.tolist(), strict=True):
        rows = [positive, *(n for n in negative_ids.tolist() if n != positive)]
        logits = _unit(table[rows]) @ _unit(h) / TEMPERATURE
        losses.append(cross_entropy(logits, torch.tensor(0)))
    return torch.stack(losses)


def _sampled(hidden: Tensor, table: Tensor, positive_ids: Tensor, negative_ids: Tensor) -> Tensor:
    return sampled_softmax(
        hidden,
        table[positive_ids],
        positive_ids,
        table[negative_ids],
        negative_ids,
        TEMPERATURE,
    )


def test_sampled_softmax_is_cross_entropy_without_collisions() -> None:
    """Eight rows, so that negatives repeat and collide; gradients too."""
    torch.manual_seed(0)
    hidden, table = torch.randn(20, 6).requires_grad_(), torch.randn(8, 6).requires_grad_()
    positive_ids, negative_ids = torch.randint(8, (20,)), torch.randint(8, (12,))
    weights = torch.rand(20)
    ours = _sampled(hidden, table, positive_ids, negative_ids)
    theirs = _sampled_by_definition(hidden, table, positive_ids, negative_ids)
    torch.testing.assert_close(ours, theirs)
    our_gradients = torch.autograd.grad((ours * weights).sum(), [hidden, table])
    their_gradients = torch.autograd.grad((theirs * weights).sum(), [hidden, table])
    torch.testing.assert_close(our_gradients, their_gradients)


def test_a_loss_whose_negatives_all_collide_is_finite_and_nil() -> None:
    hidden, table = torch.randn(2, 4).requires_grad_(), torch.randn(3, 4).requires_grad_()
    losses = _sampled(hidden, table, torch.tensor([1, 1]), torch.tensor([1, 1, 1]))
    torch.testing.assert_close(losses, torch.zeros(2))
    for gradient in torch.autograd.grad(losses.sum(), [hidden, table]):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_no_positions() -> None:
    hidden, table = torch.randn(0, 4).requires_grad_(), torch.randn(3, 4)
    losses = _sampled(hidden, table, torch.zeros(0).long(), torch.tensor([1, 2]))
    assert losses.shape == (0,)
    losses.sum().backward()


def test_low_temperatures_and_zero_vectors_stay_finite() -> None:
    hidden, table = torch.zeros(1, 4), torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [0, 0, 0, 0]])
    hidden[0, 0] = 1
    ids = torch.tensor([1])
    loss = sampled_softmax(hidden, table[ids], ids, table[[0]], torch.tensor([0]), 1e-3)
    assert float(loss) == pytest.approx(2000)
    loss = sampled_softmax(hidden * 0, table[ids], ids, table[[2]], torch.tensor([2]), 1e-3)
    assert float(loss) == pytest.approx(torch.log(torch.tensor(2.0)))


def test_autocast_does_not_round_the_losses() -> None:
    hidden, table = torch.randn(5, 8), torch.randn(9, 8)
    ids, negatives = torch.randint(9, (5,)), torch.randint(9, (7,))
    expected = _sampled(hidden, table, ids, negatives), full_softmax(hidden, table, ids, 0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = _sampled(hidden, table, ids, negatives), full_softmax(hidden, table, ids, 0.05)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_full_softmax_is_cross_entropy_over_all_rows() -> None:
    hidden, rows = torch.randn(4, 6), torch.randn(5, 6)
    targets = torch.tensor([0, 4, IGNORED, 2])
    losses = full_softmax(hidden, rows, targets, TEMPERATURE)
    for i, target in enumerate(targets.tolist()):
        if target == IGNORED:
            assert losses[i] == 0
        else:
            logits = _unit(rows) @ _unit(hidden[i]) / TEMPERATURE
            torch.testing.assert_close(losses[i], cross_entropy(logits, torch.tensor(target)))
