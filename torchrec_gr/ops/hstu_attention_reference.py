"""HSTU's attention written straight from its definition: the oracle of `hstu_attention`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from torchrec_gr.ops.attention_bias import AttentionBias
from torchrec_gr.ops.attention_spans import KeySpans
from torchrec_gr.ops.reference_rows import reference_rows


def hstu_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    spans: KeySpans,
    *,
    max_seq_len: int,
    alpha: float | None = None,
    scale: float | Tensor | None = None,
    bias: AttentionBias | None = None,
) -> Tensor:
    """silu(alpha * q.k + bias) * scale, summed over the visible keys' v, one row after the other.

    Arguments and result are those of `hstu_attention`; they are not checked.
    """
    alpha = q.shape[2] ** -0.5 if alpha is None else alpha
    outputs = []
    for row in reference_rows(q, k, v, q_offsets, k_offsets, spans, bias):
        scores = alpha * torch.einsum("qha,kha->hqk", row.q, row.k) + row.bias
        weights = silu(scores) * row.visible
        outputs.append(torch.einsum("hqk,khv->qhv", weights, row.v))
    scale = 1.0 / max_seq_len if scale is None else scale
    return torch.cat(outputs) * (scale[:, None, None] if isinstance(scale, Tensor) else scale)
