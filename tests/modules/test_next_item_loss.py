"""The next item's loss against a loop over positions and negatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from torchrec_gr.modules.next_item_loss import NextItemLoss

TEMPERATURE = 0.05


def unit(x: Tensor) -> Tensor:
    return x / max(x.norm().item(), 1e-6)


def oracle(
    hidden: Tensor,
    positives: Tensor,
    positive_ids: Tensor,
    negatives: list[list[tuple[int, Tensor]]],
) -> list[float]:
    """-log of the softmax at the positive, one position after the other, in plain numbers."""
    losses = []
    for user, positive, wanted, drawn in zip(
        hidden, positives, positive_ids.tolist(), negatives, strict=True
    ):
        score = (unit(user) @ unit(positive)).item() / TEMPERATURE
        others = [
            (unit(user) @ unit(row)).item() / TEMPERATURE for item, row in drawn if item != wanted
        ]
        highest = max([score, *others])
        total = sum(math.exp(other - highest) for other in [score, *others])
        losses.append(highest + math.log(total) - score)
    return losses


def case(num_positions: int, num_rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    rows = torch.randn(num_rows, 5, dtype=torch.float64)
    row_ids = torch.arange(1, num_rows + 1)
    wanted = torch.randint(num_rows, (num_positions,))
    hidden = torch.randn(num_positions, 5, dtype=torch.float64)
    return hidden, rows[wanted], row_ids[wanted], rows, row_ids


@pytest.mark.parametrize("num_negatives", [1, 4, 50])
def test_each_position_has_negatives_of_its_own(num_negatives: int) -> None:
    hidden, positives, positive_ids, rows, row_ids = case(9, 6)
    torch.manual_seed(3)
    losses = NextItemLoss(TEMPERATURE, num_negatives)(
        hidden, positives, positive_ids, rows, row_ids
    )
    torch.manual_seed(3)
    drawn = torch.randint(6, (9, num_negatives))
    negatives = [[(int(row_ids[i]), rows[i]) for i in of] for of in drawn]
    expected = oracle(hidden, positives, positive_ids, negatives)
    torch.testing.assert_close(losses.tolist(), expected, rtol=1e-5, atol=1e-5)


def test_shared_negatives_are_those_of_every_position() -> None:
    hidden, positives, positive_ids, rows, row_ids = case(9, 6)
    losses = NextItemLoss(TEMPERATURE, None)(hidden, positives, positive_ids, rows, row_ids)
    negatives = [list(zip(row_ids.tolist(), rows, strict=True))] * 9
    expected = oracle(hidden, positives, positive_ids, negatives)
    torch.testing.assert_close(losses.tolist(), expected, rtol=1e-5, atol=1e-5)


def test_every_gradient_is_that_of_the_written_out_softmax() -> None:
    given = [x.float().requires_grad_() for x in (case(9, 6)[i] for i in (0, 1, 3))]
    hidden, positives, rows = given
    positive_ids, row_ids = case(9, 6)[2], case(9, 6)[4]
    torch.manual_seed(3)
    losses = NextItemLoss(TEMPERATURE, 7)(hidden, positives, positive_ids, rows, row_ids)
    torch.manual_seed(3)
    drawn = torch.randint(6, (9, 7))
    cosine = torch.nn.functional.cosine_similarity
    others = cosine(hidden[:, None], rows[drawn], dim=2) / TEMPERATURE
    others = others.masked_fill(row_ids[drawn] == positive_ids[:, None], -math.inf)
    scores = torch.cat([cosine(hidden, positives, dim=1)[:, None] / TEMPERATURE, others], dim=1)
    expected = -scores.log_softmax(dim=1)[:, 0]
    weights = torch.randn(9)
    found = torch.autograd.grad((losses * weights).sum(), given)
    plain = torch.autograd.grad((expected * weights).sum(), given)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-5)


def test_without_positions_there_is_no_loss() -> None:
    hidden, positives, positive_ids, rows, row_ids = case(0, 6)
    losses = NextItemLoss(TEMPERATURE, 3)(hidden, positives, positive_ids, rows, row_ids)
    assert losses.shape == (0,)


@pytest.mark.parametrize(
    ("temperature", "num_negatives", "message"),
    [(0.0, 3, "temperature: expected above 0"), (0.05, 0, "num_negatives: expected at least 1")],
)
def test_numbers_out_of_range_are_refused(
    temperature: float, num_negatives: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        NextItemLoss(temperature, num_negatives)
