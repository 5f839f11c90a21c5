"""Log-sum-exp of many similarities, the denominator of a softmax over sampled negatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MASKED_LOGIT = -1e6


def log_sum_exp_of_products(
    hidden: Tensor, rows: Tensor, mask: Callable[[Tensor], object]
) -> Tensor:
    """`logsumexp(hidden @ rows.T, dim=1)` without the masked products.

    Args:
        hidden: [P, D] float.
        rows: [N, D] float.
        mask: given the [P, N] products, sets those that do not count to MASKED_LOGIT, in place.

    Returns:
        [P], dtype of hidden; about MASKED_LOGIT, without gradient, where nothing counts.
    """
    if rows.shape[0] == 0:
        return (hidden.sum(dim=1) + rows.sum()) * 0 + MASKED_LOGIT
    return _LogSumExpOfProducts.apply(hidden, rows, mask)


def equal_pairs(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Every (i, j) with left[i] == right[j], without comparing all of them; by rising i.

    Args:
        left, right: [P] and [N] integers.

    Returns:
        Two int64 tensors of as many places as there are pairs.
    """
    ordered, order = right.sort()
    first = torch.searchsorted(ordered, left)
    counts = torch.searchsorted(ordered, left, right=True) - first
    i = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    nth = torch.arange(len(i), device=counts.device) - (counts.cumsum(0) - counts)[i]
    return i, order[first[i] + nth]


class _LogSumExpOfProducts(torch.autograd.Function):
    """`log_sum_exp_of_products` of one row or more.

    Passes over the P x N products are what a step of pretraining spends its time on, so they are
    worked on in place and kept once, as exponentials; autograd's own way makes several copies and
    takes nearly twice as long.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, rows: Tensor, mask: Callable[[Tensor], object]) -> Tensor:
        products = hidden @ rows.t()
        mask(products)
        highest = products.amax(dim=1, keepdim=True)
        exponentials = products.sub_(highest).exp_()
        total = exponentials.sum(dim=1, keepdim=True)
        ctx.save_for_backward(hidden, rows, exponentials, total)
        return (highest + total.log()).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, rows, exponentials, total = ctx.saved_tensors
        share = gradient.unsqueeze(1) / total
        return exponentials @ rows * share, exponentials.t() @ (hidden * share), None
