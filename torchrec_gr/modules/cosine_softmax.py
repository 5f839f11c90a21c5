"""Next-item losses: softmax over cosine similarities with rows of an embedding table."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from torchrec_gr.modules.log_sum_exp import MASKED_LOGIT, equal_pairs, log_sum_exp_of_products

NORM_EPS = 1e-6
IGNORED = -100


def sampled_softmax(
    hidden: Tensor,
    positives: Tensor,
    positive_ids: Tensor,
    negatives: Tensor,
    negative_ids: Tensor,
    temperature: float,
) -> Tensor:
    """Cross-entropy of each positive among the negatives that all positions share.

    A negative that is a position's own positive does not count there. No logQ correction: the
    negatives are drawn uniformly. Computed in float32, under autocast too.

    Args:
        hidden: [P, D] float, what each position predicts.
        positives: [P, D] float, the table rows of the right answers.
        positive_ids: [P] integers.
        negatives: [N, D] float, the table rows of the negatives; may hold one more than once.
        negative_ids: [N] integers.
        temperature: divides the similarities.

    Returns:
        [P] float32.

    Source: GPSD, 2506.03699, its released configuration.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        hidden = unit(hidden) / temperature
        collisions = equal_pairs(positive_ids, negative_ids)
        nothing = hidden.new_tensor(MASKED_LOGIT)
        positive_logits = (hidden * unit(positives)).sum(dim=1)
        log_total = log_sum_exp_of_products(
            hidden, unit(negatives), lambda products: products.index_put_(collisions, nothing)
        )
        return torch.logaddexp(positive_logits, log_total) - positive_logits


def full_softmax(
    hidden: Tensor, rows: Tensor, targets: Tensor, temperature: float | Tensor
) -> Tensor:
    """Cross-entropy of each target among all rows of a small table. In float32.

    Args:
        hidden: [P, D] float, what each position predicts.
        rows: [S, D] float.
        targets: [P] int64, places among the rows; IGNORED gives a loss of 0.
        temperature: divides the similarities.

    Returns:
        [P] float32.

    Source: as `sampled_softmax`.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        logits = unit(hidden) / temperature @ unit(rows).t()
        return cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")


def unit(x: Tensor) -> Tensor:
    """Vectors [..., D] of length 1, in float32; shorter ones than NORM_EPS stay short."""
    return normalize(x.float(), dim=-1, eps=NORM_EPS)
