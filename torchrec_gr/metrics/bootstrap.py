"""How far chance in who was in the test set may have moved an AUC: users drawn again and again."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from torchrec_gr.metrics.auc import auc, require_both_classes
from torchrec_gr.metrics.inputs import Vector, binary_labels, group_codes, real_scores

NUM_RESAMPLES = 400


class PairedDifference(NamedTuple):
    """AUC of one model less that of another on the same rows, with its 95% interval.

    Args:
        value: the difference on the rows as they are.
        low: 2.5% point of the resampled differences.
        high: 97.5% point.
        standard_error: standard deviation of the resampled differences.
    """

    value: float
    low: float
    high: float
    standard_error: float


def paired_bootstrap(
    labels: Vector,
    scores_a: Vector,
    scores_b: Vector,
    user_ids: Vector | None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> PairedDifference:
    """The difference of two AUCs on the same rows, with an interval from resampling users.

    Both models see the same users in each resample, so what makes both better or worse cancels.

    Args:
        labels: [N] 0 or 1.
        scores_a: [N] scores of one model.
        scores_b: [N] scores of the other.
        user_ids: [N] integers or strings; None draws rows instead of users.
        num_resamples: how often users are drawn.
        seed: of the draws.

    Returns:
        AUC of a less AUC of b, its 95% percentile interval and standard error.

    Raises:
        ValueError: as `resampled_aucs`.
    """
    a = resampled_aucs(labels, scores_a, user_ids, num_resamples, seed)
    b = resampled_aucs(labels, scores_b, user_ids, num_resamples, seed)
    return paired_difference(auc(labels, scores_a) - auc(labels, scores_b), a - b)


def paired_difference(value: float, resampled: npt.NDArray[np.float64]) -> PairedDifference:
    """Sums up resampled differences.

    Args:
        value: the difference on the rows as they are.
        resampled: [R] the difference in each resample.

    Returns:
        The value with its 95% percentile interval and standard error.
    """
    low, high = np.quantile(resampled, (0.025, 0.975))
    return PairedDifference(value, float(low), float(high), float(resampled.std(ddof=1)))


def resampled_aucs(
    labels: Vector,
    scores: Vector,
    user_ids: Vector | None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> npt.NDArray[np.float64]:
    """One model's AUC in each of `num_resamples` draws of users with replacement.

    The draws depend on the labels, the users and the seed alone: two models' results for rows in
    the same order can be subtracted, draw by draw. Scores are sorted once; a draw only weighs the
    rows anew, so it costs O(N).

    Args:
        labels: [N] 0 or 1.
        scores: [N] logits, probabilities or anything that ranks.
        user_ids: [N] integers or strings, all rows of a user are drawn together; None draws rows.
        num_resamples: how often users are drawn, at least 2.
        seed: of the draws.

    Returns:
        [num_resamples] float64.

    Raises:
        ValueError: fewer than two users or resamples, or what `auc` refuses.
    Source: Efron and Tibshirani, "An introduction to the bootstrap" (1993), chapters 8 and 13.
    """
    positive = binary_labels(labels)
    values = real_scores(scores, positive.size)
    require_both_classes(int(positive.sum()), positive.size)
    if num_resamples < 2:
        raise ValueError(f"num_resamples must be at least 2, got {num_resamples}")
    clusters, num_clusters = (
        (np.arange(positive.size), positive.size)
        if user_ids is None
        else group_codes(user_ids, positive.size)
    )
    if num_clusters < 2:
        raise ValueError("resampling needs two users or more: pass None where the log has none")

    order = np.argsort(values[~positive], kind="stable")
    negatives, negative_clusters = values[~positive][order], clusters[~positive][order]
    order = np.argsort(values[positive], kind="stable")
    positives, positive_clusters = values[positive][order], clusters[positive][order]
    below = np.searchsorted(negatives, positives, side="left")
    not_above = np.searchsorted(negatives, positives, side="right")
    generator = np.random.default_rng(seed)
    result = np.empty(num_resamples, np.float64)
    lower_weight = np.zeros(negatives.size + 1, np.int64)  # [n]: of the n lowest negatives
    drawn = 0
    while drawn < num_resamples:
        weights = np.bincount(
            generator.integers(num_clusters, size=num_clusters), minlength=num_clusters
        )
        np.cumsum(weights[negative_clusters], out=lower_weight[1:])
        positive_weights = weights[positive_clusters]
        pairs = int(positive_weights.sum()) * int(lower_weight[-1])
        if pairs == 0:
            continue  # a class is missing: draw again (each draw has both with a fair chance)
        wins = np.dot(positive_weights, lower_weight[below] + lower_weight[not_above])
        result[drawn] = int(wins) / (2 * pairs)
        drawn += 1
    return result
