"""Softmax attention: the oracle against its definition, and the sums that the backward reads."""

from __future__ import annotations

import math

import torch

from tests.ops.attention_cases import (
    MAX_SEQ_LEN,
    AttentionCase,
    make_case,
    small_cases,
    visible_by_definition,
)
from torchrec_gr.ops.jagged_softmax_attention_reference import jagged_softmax_attention_reference

ALPHA = 0.7


@small_cases
def test_reference_is_the_definition(case: AttentionCase) -> None:
    """Scalar by scalar, without a bias: what the bias adds is tested where it is written."""
    output = jagged_softmax_attention_reference(
        *case.positional(), max_seq_len=MAX_SEQ_LEN, alpha=ALPHA
    )
    for row in range(len(case.q_offsets) - 1):
        for i, weights in enumerate(_weights(case, row)):
            query = int(case.q_offsets[row]) + i
            for head, of_head in enumerate(weights):
                expected = torch.zeros(case.v.shape[2], dtype=case.v.dtype)
                for key, weight in of_head.items():
                    expected += weight / sum(of_head.values()) * case.v[key, head].detach()
                torch.testing.assert_close(output[query, head].detach(), expected)


def _weights(case: AttentionCase, row: int) -> list[list[dict[int, float]]]:
    """exp(score) of every key that a query of a row sees: [query][head][key]."""
    q_first, k_first = int(case.q_offsets[row]), int(case.k_offsets[row])
    q, k = case.q.detach(), case.k.detach()
    return [
        [
            {
                k_first + j: math.exp(ALPHA * float(q[q_first + i, head] @ k[k_first + j, head]))
                for j, visible in enumerate(seen)
                if visible
            }
            for head in range(case.q.shape[1])
        ]
        for i, seen in enumerate(visible_by_definition(case, row))
    ]


@small_cases
def test_gradients_of_the_reference(case: AttentionCase) -> None:
    def attend(*_: torch.Tensor) -> torch.Tensor:
        return case.attend(jagged_softmax_attention_reference)

    assert torch.autograd.gradcheck(attend, list(case.leaves.values()), fast_mode=True)


def test_log_sum_exp() -> None:
    """It has no gradient; a query that sees no key has -inf."""
    case = make_case([3, 9, 2], [3, 9, 0], own="none")
    spans = case.spans
    output, log_sum_exp = torch.ops.torchrec_gr.jagged_softmax_attention(
        *case.positional()[:5], spans.start, spans.end, spans.own, *[None] * 7, MAX_SEQ_LEN, ALPHA
    )
    assert output.requires_grad
    assert not log_sum_exp.requires_grad
    weights = [of_query for row in range(3) for of_query in _weights(case, row)]
    sums = torch.tensor([[sum(of_head.values()) for of_head in heads] for heads in weights])
    assert (sums[-2:] == 0).all()
    torch.testing.assert_close(log_sum_exp, sums.log())
