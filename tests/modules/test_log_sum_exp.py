"""The log-sum-exp of products against torch's, and the pairs of equal ids against a loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_gr.modules.log_sum_exp import MASKED_LOGIT, equal_pairs, log_sum_exp_of_products

IDS = st.lists(st.sampled_from([-7, 0, 1, 2, 2**62]), max_size=9)


@pytest.mark.parametrize(("num_hidden", "num_rows"), [(5, 8), (1, 1), (0, 3), (3, 0), (0, 0)])
def test_is_the_definition(num_hidden: int, num_rows: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(num_hidden, 4, dtype=torch.float64).requires_grad_()
    rows = torch.randn(num_rows, 4, dtype=torch.float64).requires_grad_()
    masked = torch.rand(num_hidden, num_rows) < 0.3
    weights = torch.rand(num_hidden)
    products = (hidden @ rows.t()).masked_fill(masked, MASKED_LOGIT)
    nothing = torch.full((num_hidden, 1), MASKED_LOGIT, dtype=torch.float64)
    theirs = torch.cat([products, nothing], dim=1).logsumexp(dim=1)
    ours = log_sum_exp_of_products(hidden, rows, lambda p: p.masked_fill_(masked, MASKED_LOGIT))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weights).sum(), [hidden, rows]),
        torch.autograd.grad((theirs * weights).sum(), [hidden, rows]),
    )


@settings(deadline=None)
@given(IDS, IDS)
def test_equal_pairs(left: list[int], right: list[int]) -> None:
    i, j = equal_pairs(*(torch.tensor(ids, dtype=torch.int64) for ids in (left, right)))
    expected = [(a, b) for a in range(len(left)) for b in range(len(right)) if left[a] == right[b]]
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == expected
    assert i.tolist() == sorted(i.tolist())
