"""Softmax attention written straight from its definition: the oracle of the op."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrec_gr.ops.attention_bias import AttentionBias
from torchrec_gr.ops.attention_spans import KeySpans
from torchrec_gr.ops.reference_rows import reference_rows


def jagged_softmax_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    spans: KeySpans,
    *,
    max_seq_len: int,
    alpha: float | None = None,
    bias: AttentionBias | None = None,
) -> Tensor:
    """softmax(alpha * q.k + bias) over the visible keys, times their v, one row after the other.

    Arguments and result are those of `jagged_softmax_attention`; they are not checked.
    """
    alpha = q.shape[2] ** -0.5 if alpha is None else alpha
    outputs = []
    for row in reference_rows(q, k, v, q_offsets, k_offsets, spans, bias):
        scores = alpha * torch.einsum("qha,kha->hqk", row.q, row.k) + row.bias
        # A query that sees no key gets zeros: softmax would divide 0 by 0, so only others enter it.
        seeing = row.visible.any(dim=1)
        hidden = ~row.visible[seeing]
        weights = scores[:, seeing].masked_fill(hidden, float("-inf")).softmax(dim=2)
        output = q.new_zeros(len(row.q), *v.shape[1:])
        outputs.append(output.index_put((seeing,), torch.einsum("hqk,khv->qhv", weights, row.v)))
    return torch.cat(outputs)
