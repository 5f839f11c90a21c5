"""HSTU's attention: the oracle against its definition, the op against the oracle."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from tests.ops.attention_cases import (
    MAX_SEQ_LEN,
    AttentionCase,
    assert_same,
    make_case,
    over_cases,
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
        return hstu_attention_reference(*case.positional(), max_seq_len=MAX_SEQ_LEN, bias=case.bias)

    assert torch.autograd.gradcheck(attend, case.leaves, fast_mode=True)


@over_cases
def test_equals_the_reference(make: Callable[[], AttentionCase]) -> None:
    case = make()
    assert_same(hstu_attention, hstu_attention_reference, case)
    assert_same(hstu_attention, hstu_attention_reference, case, alpha=ALPHA, scale=SCALE)
    per_query = torch.rand(len(case.q), dtype=case.q.dtype)
    assert_same(hstu_attention, hstu_attention_reference, case, scale=per_query)


def test_default_scale_is_configured_and_not_read_off_the_batch() -> None:
    case = make_case([3, 9], [3, 9])
    by_default = hstu_attention(*case.positional(), max_seq_len=MAX_SEQ_LEN)
    given = hstu_attention(*case.positional(), max_seq_len=5, scale=1 / MAX_SEQ_LEN)
    torch.testing.assert_close(by_default, given)


def test_bfloat16_stays_bfloat16() -> None:
    case = make_case([5, 20], [5, 20], dtype=torch.bfloat16)
    exact = make_case([5, 20], [5, 20], dtype=torch.float64)
    output = hstu_attention(*case.positional(), max_seq_len=MAX_SEQ_LEN)
    expected = hstu_attention_reference(*exact.positional(), max_seq_len=MAX_SEQ_LEN)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), expected, atol=0.03, rtol=0.03)
    biased = make_case([5, 20], [5, 20], dtype=torch.bfloat16, bias="default")
    output = hstu_attention(*biased.positional(), max_seq_len=MAX_SEQ_LEN, bias=biased.bias)
    assert output.dtype == torch.bfloat16
