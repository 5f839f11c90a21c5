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
    padded_sdpa,
    padded_softmax_attention,
)
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
