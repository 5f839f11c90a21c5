"""The area under the ROC curve, exactly."""

from __future__ import annotations

import numpy as np

from torchrec_gr.metrics.inputs import Vector, binary_labels, real_scores


def auc(labels: Vector, scores: Vector) -> float:
    """The chance that a random positive scores above a random negative, ties counting half.

    O(N log N), and exact: the pairs are counted in integers.

    Args:
        labels: [N] 0 or 1.
        scores: [N] logits, probabilities or anything that ranks.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: labels of one class only (the AUC is undefined then), no rows, labels that are
            not 0 or 1, scores that are NaN or too many or too few.
    """
    positive = binary_labels(labels)
    values = real_scores(scores, positive.size)
    require_both_classes(int(positive.sum()), positive.size)
    negatives = np.sort(values[~positive])
    positives = np.sort(values[positive])  # sorted queries keep the binary search in cache
    below = np.searchsorted(negatives, positives, side="left").sum()
    not_above = np.searchsorted(negatives, positives, side="right").sum()
    return (int(below) + int(not_above)) / (2 * positives.size * negatives.size)


def require_both_classes(num_positives: int, num_rows: int) -> None:
    """Refuses labels of one class, of which no pair can be ranked.

    Raises:
        ValueError: no positive, or no negative.
    """
    if num_positives in (0, num_rows):
        raise ValueError(
            f"AUC needs both classes: all {num_rows} labels are {int(num_positives > 0)}; "
            "score more rows, or check the label column"
        )
