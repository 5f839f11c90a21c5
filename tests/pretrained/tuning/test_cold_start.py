"""Random candidate ids and dropout by age: how often, and where not."""

from __future__ import annotations

import math

import pytest
import torch

from torchrec_gr.pretrained.tuning.cold_start import AgeDropout, replaced_ids

BANDS = ((7, 0.7), (28, 0.5))


def within(share: float, expected: float, num_drawn: int) -> bool:
    """Whether a share is within five standard errors of what is expected."""
    return abs(share - expected) <= 5 * math.sqrt(expected * (1 - expected) / num_drawn)


def test_a_share_of_the_ids_becomes_any_other() -> None:
    torch.manual_seed(0)
    ids = torch.full((200_000,), 3)
    found = replaced_ids(ids, 11, 0.1)
    assert found.dtype == ids.dtype
    drawn = found[found != 3]
    assert within(len(drawn) / len(ids), 0.1 * 9 / 10, len(ids))  # 3 itself may be drawn
    counts = torch.bincount(drawn, minlength=11)
    assert counts[[0, 3]].tolist() == [0, 0]
    for count in counts[counts > 0]:
        assert within(int(count) / len(drawn), 1 / 9, len(drawn))
    assert torch.count_nonzero(counts) == 9
    assert torch.equal(ids, torch.full_like(ids, 3))


def test_hashed_ids_become_any_number() -> None:
    torch.manual_seed(0)
    ids = torch.arange(10_000)
    found = replaced_ids(ids, None, 0.5)
    drawn = found[found != ids]
    assert within(len(drawn) / len(ids), 0.5, len(ids))
    assert (drawn > 0).all()
    assert len(drawn.unique()) == len(drawn)
    assert drawn.max() > 1 << 62


@pytest.mark.parametrize("ids", [torch.tensor([5, 0, 5]), torch.zeros(0, dtype=torch.int64)])
def test_none_and_all_of_the_ids(ids: torch.Tensor) -> None:
    assert torch.equal(replaced_ids(ids, 6, 0.0), ids)
    assert torch.equal(replaced_ids(ids, 2, 1.0), torch.ones_like(ids))


def test_a_table_without_items_is_refused() -> None:
    with pytest.raises(ValueError, match="got num_rows=1"):
        replaced_ids(torch.tensor([0]), 1, 0.1)


@pytest.mark.parametrize(
    ("age", "rate"),
    [(0, 0.7), (6, 0.7), (7, 0.5), (27, 0.5), (28, 0.0), (4000, 0.0), (-1, 0.0), (-9, 0.0)],
)
def test_the_rate_is_that_of_the_items_age(age: int, rate: float) -> None:
    torch.manual_seed(0)
    vectors = torch.randn(500, 100)
    found = AgeDropout(BANDS)(vectors, torch.full((500,), age))
    if rate == 0:
        assert torch.equal(found, vectors)
        return
    kept = found != 0
    assert within(1 - kept.float().mean().item(), rate, kept.numel())
    assert not kept.all(dim=1).any()  # element by element, not row by row
    torch.testing.assert_close(found[kept], vectors[kept] / (1 - rate))


def test_rows_of_other_ages_do_not_disturb_each_other() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(6, 400, requires_grad=True)
    ages = torch.tensor([3, 100, -1, 10, 0, 28], dtype=torch.int32)
    found = AgeDropout(BANDS)(vectors, ages)
    shares = (found == 0).float().mean(dim=1).tolist()
    for share, rate in zip(shares, [0.7, 0.0, 0.0, 0.5, 0.7, 0.0], strict=True):
        assert within(share, rate, 400)
    (gradient,) = torch.autograd.grad(found.sum(), vectors)
    assert torch.equal(gradient == 0, found == 0)
    assert (gradient[1] == 1).all()


def test_nothing_is_dropped_in_evaluation() -> None:
    vectors, ages = torch.randn(4, 8), torch.zeros(4, dtype=torch.int64)
    dropout = AgeDropout(BANDS)
    assert not torch.equal(dropout(vectors, ages), vectors)
    assert dropout.eval()(vectors, ages) is vectors
    assert not dropout.state_dict()


@pytest.mark.parametrize("num_rows", [0, 3])
def test_without_bands_or_rows(num_rows: int) -> None:
    vectors, ages = torch.randn(num_rows, 8), torch.zeros(num_rows, dtype=torch.int64)
    assert torch.equal(AgeDropout(())(vectors, ages), vectors)
    assert AgeDropout(BANDS)(vectors.bfloat16(), ages).dtype == torch.bfloat16
