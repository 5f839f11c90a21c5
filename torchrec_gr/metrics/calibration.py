"""Whether predicted probabilities are right on average."""

from __future__ import annotations

import numpy as np

from torchrec_gr.metrics.inputs import Vector, binary_labels, real_scores


def calibration(labels: Vector, logits: Vector) -> float:
    """Mean predicted probability divided by the mean label: 1 is calibrated, above 1 too high.

    Args:
        labels: [N] 0 or 1, at least one positive.
        logits: [N] before the sigmoid.

    Returns:
        A number >= 0.

    Raises:
        ValueError: no positive label, no rows, labels that are not 0 or 1, logits that are NaN or
            too many or too few.
    """
    positive = binary_labels(labels)
    values = real_scores(logits, positive.size, "logits").astype(np.float64)
    if not positive.any():
        raise ValueError(
            f"calibration needs a positive: all {positive.size} labels are 0; score more rows"
        )
    log_probabilities = -np.logaddexp(0.0, -values)
    return float(np.exp(log_probabilities).mean() / positive.mean())
