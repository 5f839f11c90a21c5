"""Next-item losses: softmax over cosine similarities with rows of an embedding table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, normalize

NORM_EPS = 1e-6
COLLISION_LOGIT = -1e6
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
        hidden = _unit(hidden) / temperature
        positive_logits = (hidden * _unit(positives)).sum(dim=1)
        log_total = _LogSumExpOfProducts.apply(
            hidden, _unit(negatives), *_collisions(positive_ids, negative_ids)
        )
        return torch.logaddexp(positive_logits, log_total) - positive_logits


def full_softmax(hidden: Tensor, rows: Tensor, targets: Tensor, temperature: float) -> Tensor:
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
        logits = _unit(hidden) / temperature @ _unit(rows).t()
        return cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")


class _LogSumExpOfProducts(torch.autograd.Function):
    """`logsumexp(hidden @ rows.T, dim=1)` without the masked pairs: [P, D] and [N, D] to [P].

    Passes over the P x N products are what a step of pretraining spends its time on, so they are
    worked on in place and kept once, as exponentials; autograd's own way makes several copies and
    takes nearly twice as long.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, rows: Tensor, masked_row: Tensor, masked_column: Tensor
    ) -> Tensor:
        products = hidden @ rows.t()
        products[masked_row, masked_column] = COLLISION_LOGIT
        highest = products.amax(dim=1, keepdim=True)
        exponentials = products.sub_(highest).exp_()
        total = exponentials.sum(dim=1, keepdim=True)
        ctx.save_for_backward(hidden, rows, exponentials, total)
        return (highest + total.log()).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, rows, exponentials, total = ctx.saved_tensors
        share = gradient.unsqueeze(1) / total
        return exponentials @ rows * share, exponentials.t() @ (hidden * share), None, None


def _unit(x: Tensor) -> Tensor:
    return normalize(x.float(), dim=-1, eps=NORM_EPS)


def _collisions(positive_ids: Tensor, negative_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Every (i, j) with negative_ids[j] == positive_ids[i], without comparing all P x N pairs."""
    ordered, order = negative_ids.sort()
    first = torch.searchsorted(ordered, positive_ids)
    counts = torch.searchsorted(ordered, positive_ids, right=True) - first
    rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    places = torch.arange(len(rows), device=counts.device) - (counts.cumsum(0) - counts)[rows]
    return rows, order[first[rows] + places]
