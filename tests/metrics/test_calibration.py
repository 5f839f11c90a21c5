"""Calibration against its definition."""

import numpy as np
import pytest
import torch

from torchrec_gr.metrics import calibration


def test_is_mean_prediction_over_mean_label() -> None:
    labels = torch.tensor([1, 0, 0, 0])
    logits = torch.logit(torch.tensor([0.9, 0.3, 0.2, 0.1], dtype=torch.float64))
    assert calibration(labels, logits) == pytest.approx(0.375 / 0.25)
    assert calibration(labels, torch.full((4,), -np.log(3.0))) == pytest.approx(1.0)


def test_is_stable_for_large_logits() -> None:
    assert calibration(np.array([1, 0]), np.array([900.0, -900.0])) == 1.0


def test_needs_a_positive() -> None:
    with pytest.raises(ValueError, match="all 3 labels are 0"):
        calibration(np.zeros(3), np.zeros(3))
