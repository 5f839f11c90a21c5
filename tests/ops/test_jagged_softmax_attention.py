"""Softmax attention: the oracle against its definition, the op against the oracle."""

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
from torchrec_gr.ops.jagged_softmax_attention import jagged_softmax_attention
from torchrec_gr.ops.jagged_softmax_attention_reference import jagged_softmax_attention_reference

ALPHA = 0.7


@small_cases
def test_reference_is_the_definition(case: AttentionCase) -> None:
    """Scalar by scalar, without a bias: what the bias adds is tested where it is written."""
    output = jagged_softmax_attention_reference(
        *case.positional(), max_seq_len=MAX_SEQ_LEN, alpha=ALPHA
    )
    for row in range(len(case.q_offsets) - 1):
        k_first = int(case.k_offsets[row])
        for i, seen in enumerate(visible_by_definition(case, row)):
            query = int(case.q_offsets[row]) + i
            keys = [k_first + j for j, visible in enumerate(seen) if visible]
            for head in range(case.q.shape[1]):
                weights = [
                    math.exp(ALPHA * float(case.q[query, head].dot(case.k[key, head]).detach()))
                    for key in keys
                ]
                expected = torch.zeros(case.v.shape[2], dtype=case.v.dtype)
                for weight, key in zip(weights, keys, strict=True):
                    expected += weight / sum(weights) * case.v[key, head].detach()
                torch.testing.assert_close(output[query, head].detach(), expected)


@small_cases
def test_gradients_of_the_reference(case: AttentionCase) -> None:
    def attend(*_: torch.Tensor) -> torch.Tensor:
        return jagged_softmax_attention_reference(
            *case.positional(), max_seq_len=MAX_SEQ_LEN, bias=case.bias
        )

    assert torch.autograd.gradcheck(attend, case.leaves, fast_mode=True)


@over_cases
def test_equals_the_reference(make: Callable[[], AttentionCase]) -> None:
    assert_same(jagged_softmax_attention, jagged_softmax_attention_reference, make())
    assert_same(jagged_softmax_attention, jagged_softmax_attention_reference, make(), alpha=ALPHA)


def test_a_query_that_sees_no_key_gets_zeros() -> None:
    case = make_case([2, 1], [3, 0], own="none")
    case.spans.end.copy_(case.spans.start)
    output = jagged_softmax_attention(*case.positional(), max_seq_len=MAX_SEQ_LEN)
    assert output.abs().max() == 0
    for gradient in torch.autograd.grad(output.sum(), case.leaves):
        assert gradient.abs().max() == 0


def test_bfloat16_stays_bfloat16() -> None:
    case = make_case([5, 20], [5, 20], dtype=torch.bfloat16)
    exact = make_case([5, 20], [5, 20], dtype=torch.float64)
    output = jagged_softmax_attention(*case.positional(), max_seq_len=MAX_SEQ_LEN)
    expected = jagged_softmax_attention_reference(*exact.positional(), max_seq_len=MAX_SEQ_LEN)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), expected, atol=0.03, rtol=0.03)
    biased = make_case([5, 20], [5, 20], dtype=torch.bfloat16, bias="default")
    output = jagged_softmax_attention(
        *biased.positional(), max_seq_len=MAX_SEQ_LEN, bias=biased.bias
    )
    assert output.dtype == torch.bfloat16


def test_a_row_does_not_depend_on_its_batch() -> None:
    """A NaN in one row stays there, though rows share a padded batch."""
    case = make_case([5, 6, 40], [5, 6, 40])
    alone = jagged_softmax_attention(*case.positional(), max_seq_len=MAX_SEQ_LEN)
    with torch.no_grad():
        case.v[5:11] = math.nan
    beside = jagged_softmax_attention(*case.positional(), max_seq_len=MAX_SEQ_LEN)
    torch.testing.assert_close(beside[:5], alone[:5], rtol=0, atol=0)
    torch.testing.assert_close(beside[11:], alone[11:], rtol=0, atol=0)
