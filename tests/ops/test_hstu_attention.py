"""HSTU's attention: the oracle against its definition, and the scale."""

from __future__ import annotations

import math

import pytest
import torch

from tests.ops.attention_cases import (
    AWKWARD,
    MAX_SEQ_LEN,
    AttentionCase,
    assert_near_the_oracle,
    both_dtypes,
    make_case,
    small_cases,
    visible_by_definition,
)
from torchrec_gr.ops.hstu_attention import hstu_attention
from torchrec_gr.ops.hstu_attention_reference import hstu_attention_reference

ALPHA, SCALE = 0.7, 0.3


@small_cases
def test_reference_is_the_definition(case: AttentionCase) -> None:
    """Scalar by scalar, without a bias: what the bias adds is tested where it is written."""
    output = hstu_attention_reference(
        *case.positional(), max_seq_len=MAX_SEQ_LEN, alpha=ALPHA, scale=SCALE
    )
    for row in range(len(case.q_offsets) - 1):
        k_first = int(case.k_offsets[row])
        for i, seen in enumerate(visible_by_definition(case, row)):
            query = int(case.q_offsets[row]) + i
            for head in range(case.q.shape[1]):
                expected = torch.zeros(case.v.shape[2], dtype=case.v.dtype)
                for key in (k_first + j for j, visible in enumerate(seen) if visible):
                    score = ALPHA * float(case.q[query, head].dot(case.k[key, head]).detach())
                    weight = score / (1 + math.exp(-score)) * SCALE
                    expected += weight * case.v[key, head].detach()
                torch.testing.assert_close(output[query, head].detach(), expected)


@small_cases
def test_gradients_of_the_reference(case: AttentionCase) -> None:
    def attend(*_: torch.Tensor) -> torch.Tensor:
        return case.attend(hstu_attention_reference)

    assert torch.autograd.gradcheck(attend, list(case.leaves.values()), fast_mode=True)


@both_dtypes
@pytest.mark.parametrize("bias", ["none", "default"])
def test_scale(dtype: torch.dtype, bias: str) -> None:
    """One for all, and one a query, which has a gradient."""
    case = make_case(AWKWARD, AWKWARD, bias=bias, dtype=dtype)
    assert_near_the_oracle(hstu_attention, case, scale=SCALE)
    per_query = torch.rand(len(case.q), generator=torch.Generator().manual_seed(0))
    assert_near_the_oracle(hstu_attention, case, scale=per_query)


def test_default_scale_is_configured_and_not_read_off_the_batch() -> None:
    case = make_case([3, 9], [3, 9])
    by_default = hstu_attention(*case.positional(), max_seq_len=MAX_SEQ_LEN)
    given = hstu_attention(*case.positional(), max_seq_len=5, scale=1 / MAX_SEQ_LEN)
    assert torch.equal(by_default, given)
