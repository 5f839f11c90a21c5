"""The padded baselines compute what the ops compute, values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.ops.attention_inputs import (
    NUM_HEADS,
    AttentionInputs,
    over_padding,
    over_spans,
    run,
)
from benchmarks.ops.padded_attention import (
    padded_hstu_attention,
    padded_research_attention,
    padded_sdpa,
    padded_softmax_attention,
)
from torchrec_gr.ops.attention_bias import AttentionBias
from torchrec_gr.ops.attention_spans import KeySpans
from torchrec_gr.ops.hstu_attention_reference import hstu_attention_reference
from torchrec_gr.ops.jagged_softmax_attention_reference import jagged_softmax_attention_reference
from torchrec_gr.sequences.visibility import causal

MAX_SEQ_LEN = 12


def _inputs(lengths: list[int]) -> AttentionInputs:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(4, int(offsets[-1]), NUM_HEADS, 5, generator=draw)
    q, k, v = (x.clone().requires_grad_() for x in values[:3])
    return AttentionInputs(q, k, v, values[3], offsets, causal(offsets), MAX_SEQ_LEN)


@pytest.mark.parametrize("lengths", [[3], [0, 1, 7, 0, MAX_SEQ_LEN], [2, 3, 5]])
@pytest.mark.parametrize(
    ("padded", "reference"),
    [
        (padded_hstu_attention, hstu_attention_reference),
        (padded_softmax_attention, jagged_softmax_attention_reference),
        (padded_sdpa, jagged_softmax_attention_reference),
    ],
)
def test_equals_the_reference(
    padded: Callable[..., Tensor], reference: Callable[..., Tensor], lengths: list[int]
) -> None:
    inputs = _inputs(lengths)
    ours = run(over_padding(padded), inputs, backward=True)
    expected = run(over_spans(reference), inputs, backward=True)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("num_left_out", [0, 1])
def test_the_research_form_has_a_bias_and_may_ask_for_a_rows_first_tokens(
    num_left_out: int,
) -> None:
    inputs = _inputs([1, 7, 1, MAX_SEQ_LEN])
    offsets, spans = inputs.offsets, inputs.spans
    table = torch.randn(1, 2 * MAX_SEQ_LEN - 1, requires_grad=True)
    places = spans.end
    asked = places < (offsets.diff() - num_left_out).repeat_interleave(offsets.diff())
    q_offsets = torch.cat([offsets[:1], (offsets.diff() - num_left_out).cumsum(0)])
    ours = padded_research_attention(
        inputs.q[asked], inputs.k, inputs.v, q_offsets, offsets, table, MAX_SEQ_LEN
    )
    expected = hstu_attention_reference(
        inputs.q[asked],
        inputs.k,
        inputs.v,
        q_offsets,
        offsets,
        KeySpans(spans.start[asked], spans.end[asked], places[asked]),
        max_seq_len=MAX_SEQ_LEN,
        alpha=1.0,
        bias=AttentionBias(position_table=table),
    )
    torch.testing.assert_close(ours, expected)
    read = [inputs.q, inputs.k, inputs.v, table]
    weights = torch.randn_like(ours)
    found, exact = (torch.autograd.grad((out * weights).sum(), read) for out in (ours, expected))
    torch.testing.assert_close(found, exact)
