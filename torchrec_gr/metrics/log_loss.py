"""Log loss from logits, and the same relative to a model that knows only the mean label."""

from __future__ import annotations

import math

import numpy as np

from torchrec_gr.metrics.auc import require_both_classes
from torchrec_gr.metrics.inputs import Vector, binary_labels, real_scores


def log_loss(labels: Vector, logits: Vector) -> float:
    """Mean binary cross-entropy in nats, stable for logits of any size.

    Args:
        labels: [N] 0 or 1.
        logits: [N] before the sigmoid.

    Returns:
        A number >= 0.

    Raises:
        ValueError: no rows, labels that are not 0 or 1, logits that are NaN or too many or too few.
    """
    positive = binary_labels(labels)
    values = real_scores(logits, positive.size, "logits").astype(np.float64)
    return float(np.logaddexp(0.0, np.where(positive, -values, values)).mean())


def normalized_entropy(labels: Vector, logits: Vector) -> float:
    """Log loss divided by the entropy of the mean label: below 1 beats predicting the mean.

    Args:
        labels: [N] 0 or 1, both present.
        logits: [N] before the sigmoid.

    Returns:
        A number >= 0.

    Raises:
        ValueError: labels of one class only (their entropy is zero), and as `log_loss`.
    Source: He et al., "Practical lessons from predicting clicks on ads at Facebook" (2014),
        equation 1.
    """
    positive = binary_labels(labels)
    require_both_classes(int(positive.sum()), positive.size)
    mean = float(positive.mean())
    entropy = -mean * math.log(mean) - (1.0 - mean) * math.log1p(-mean)
    return log_loss(labels, logits) / entropy
