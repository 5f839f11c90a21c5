"""Dropout: which share is dropped, what the others grow by, and where nothing is."""

from __future__ import annotations

import math

import pytest
import torch

from torchrec_gr.modules.dropout import Dropout

SHAPE = (313, 640)  # so many that the shares stand still, and no multiple of four in a row


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_zeroes_its_share_and_scales_the_rest(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(SHAPE, requires_grad=True)
    dropped = Dropout(p)(x)
    zeros = (dropped == 0).double()
    tolerance = 5 * math.sqrt(p * (1 - p) / x.numel())
    assert float(zeros.mean()) == pytest.approx(p, abs=tolerance)
    assert dropped[dropped != 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-3)
    (gradient,) = torch.autograd.grad(dropped.sum(), x)
    assert torch.equal(gradient, dropped)


def test_neighbours_are_dropped_independently() -> None:
    """Four share one random number: each pair of them is dropped together by chance alone."""
    torch.manual_seed(0)
    zeros = (Dropout(0.3)(torch.ones(50_000, 4)) == 0).double()
    together = zeros.t() @ zeros / len(zeros)
    by_chance = torch.full((4, 4), 0.09, dtype=torch.float64).fill_diagonal_(0.3)
    torch.testing.assert_close(together, by_chance, rtol=0, atol=0.012)


def test_every_call_draws_anew_from_torchs_generator() -> None:
    dropout, x = Dropout(0.5), torch.ones(SHAPE)
    torch.manual_seed(3)
    first, second = dropout(x), dropout(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(x))


def test_nothing_is_dropped_in_eval_mode_or_at_zero() -> None:
    x = torch.randn(5, 3)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


@pytest.mark.parametrize("shape", [(), (1,), (0, 4), (3, 1, 5)])
def test_any_shape_and_dtype(shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        dropped = Dropout(0.5)(torch.ones(shape, dtype=dtype))
        assert dropped.shape == shape
        assert dropped.dtype == dtype
        assert set(dropped.flatten().tolist()) <= {0.0, 2.0}


def test_transposed_input() -> None:
    x = torch.arange(1.0, 13.0).view(3, 4).t()
    torch.manual_seed(0)
    dropped = Dropout(0.5)(x)
    assert torch.equal(dropped, torch.where(dropped == 0, 0.0, 2 * x))


def test_nearly_all_is_finite() -> None:
    assert Dropout(1 - 1e-9)(torch.ones(1000)).isfinite().all()


@pytest.mark.parametrize("p", [-0.1, 1.0, math.nan])
def test_a_probability_that_cannot_be(p: float) -> None:
    with pytest.raises(ValueError, match="dropout: expected at least 0 and below 1"):
        Dropout(p)
