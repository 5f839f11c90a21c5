"""AUC within each user, averaged over users."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from torchrec_gr.metrics.inputs import Vector, binary_labels, group_codes, real_scores


class GroupedAUC(NamedTuple):
    """GAUC and how many users it speaks of.

    Args:
        value: mean AUC of the users that have both classes, weighted by their impressions.
        users_counted: users with both classes.
        users_left_out: users with one class, whose AUC is undefined.
    """

    value: float
    users_counted: int
    users_left_out: int


def gauc(labels: Vector, scores: Vector, user_ids: Vector) -> GroupedAUC:
    """AUC of each user's impressions, averaged with the impressions as weights, ties counting half.

    It is not valid where histories stream through the test window: there a score can learn a
    user's own later labels from his earlier ones. The caller has to refuse it then.

    Args:
        labels: [N] 0 or 1.
        scores: [N] logits, probabilities or anything that ranks.
        user_ids: [N] integers or strings, in any order. Raw ids: an out-of-vocabulary row would
            merge users.

    Returns:
        The value, the users counted and the users left out for having one class.

    Raises:
        ValueError: no user has both classes, no rows, labels that are not 0 or 1, scores that are
            NaN, or not one score and user a label.
    Source: Zhu et al., "Optimized cost per click in Taobao display advertising" (2017).
    """
    positive = binary_labels(labels)
    values = real_scores(scores, positive.size)
    users, num_users = group_codes(user_ids, positive.size)

    order = np.lexsort((values, users))
    positive, values, users = positive[order], values[order], users[order]
    user_starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    tie_starts = np.flatnonzero(
        np.r_[True, (users[1:] != users[:-1]) | (values[1:] != values[:-1])]
    )

    def sums(of: np.ndarray, starts: np.ndarray) -> np.ndarray:
        return np.add.reduceat(of.astype(np.int64), starts)

    user_positives = sums(positive, user_starts)
    user_negatives = sums(~positive, user_starts)
    tie_positives = sums(positive, tie_starts)
    tie_negatives = sums(~positive, tie_starts)
    tie_users = users[tie_starts]
    negatives_before_user = np.cumsum(user_negatives) - user_negatives
    below = np.cumsum(tie_negatives) - tie_negatives - negatives_before_user[tie_users]
    doubled_wins = sums(
        tie_positives * (2 * below + tie_negatives), np.searchsorted(tie_starts, user_starts)
    )

    pairs = user_positives * user_negatives
    counted = pairs > 0
    num_counted = int(counted.sum())
    if num_counted == 0:
        raise ValueError(
            f"GAUC needs a user with both classes: each of the {num_users} users has labels of one "
            "class only; are user_ids really users?"
        )
    user_auc = doubled_wins[counted] / (2 * pairs[counted])
    impressions = (user_positives + user_negatives)[counted]
    value = float(np.average(user_auc, weights=impressions))
    return GroupedAUC(value, num_counted, num_users - num_counted)
