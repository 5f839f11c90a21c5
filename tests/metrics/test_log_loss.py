"""Log loss and normalised entropy against their formulas, and where the formulas overflow."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_gr.metrics import log_loss, normalized_entropy

_ROWS = st.lists(st.tuples(st.integers(0, 1), st.floats(-20, 20)), min_size=2, max_size=40)


def log_loss_by_formula(labels: list[int], logits: list[float]) -> float:
    total = 0.0
    for label, logit in zip(labels, logits, strict=True):
        chance = 1.0 / (1.0 + math.exp(-logit if label else logit))
        total -= math.log(chance)
    return total / len(labels)


@settings(deadline=None)
@given(_ROWS)
def test_log_loss_equals_its_formula(rows: list[tuple[int, float]]) -> None:
    labels, logits = ([row[i] for row in rows] for i in (0, 1))
    ours = log_loss(np.array(labels), np.array(logits))
    assert ours == pytest.approx(log_loss_by_formula(labels, logits), rel=1e-9, abs=1e-9)


def test_log_loss_is_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (1000,), generator=generator).float()
    logits = torch.randn(1000, generator=generator)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    assert log_loss(labels, logits) == pytest.approx(expected.item(), rel=1e-6)


def test_log_loss_is_stable_where_probabilities_round_to_zero_or_one() -> None:
    labels = np.array([1, 0, 1, 0])
    assert log_loss(labels, np.array([800.0, -800.0, 800.0, -800.0])) == 0.0
    assert log_loss(labels, np.array([-800.0, 800.0, 800.0, -800.0])) == 400.0
    assert log_loss(labels, np.array([np.inf, -np.inf, np.inf, -np.inf])) == 0.0


@settings(deadline=None)
@given(_ROWS.filter(lambda rows: len({label for label, _ in rows}) == 2))
def test_normalized_entropy_equals_its_formula(rows: list[tuple[int, float]]) -> None:
    labels, logits = ([row[i] for row in rows] for i in (0, 1))
    mean = sum(labels) / len(labels)
    entropy = -mean * math.log(mean) - (1 - mean) * math.log(1 - mean)
    expected = log_loss_by_formula(labels, logits) / entropy
    ours = normalized_entropy(np.array(labels), np.array(logits))
    assert ours == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_predicting_the_mean_has_entropy_one() -> None:
    labels = np.array([1, 0, 0, 0])
    logits = np.full(4, math.log(0.25 / 0.75))
    assert normalized_entropy(labels, logits) == pytest.approx(1.0)


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="all 2 labels are 0"):
        normalized_entropy(np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match="logits must be numbers: row 0 is NaN"):
        log_loss(np.zeros(2), np.array([np.nan, 0.0]))
    with pytest.raises(ValueError, match="no rows"):
        log_loss(np.zeros(0), np.zeros(0))
