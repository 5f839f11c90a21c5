"""Softmax attention of jagged rows."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from torchrec_gr.ops.attention_bias import AttentionBias
from torchrec_gr.ops.attention_checks import check_attention
from torchrec_gr.ops.attention_spans import KeySpans
from torchrec_gr.ops.padded_rows import PaddedRows


def jagged_softmax_attention(
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
    """Softmax attention of every query over the keys that it sees in its own row.

    Computes softmax(alpha * q.k + bias) over the visible keys, times their v, on rows padded by
    length class (`padded_rows`); `jagged_softmax_attention_reference` is its definition.

    Args:
        q: [Tq, H, A], any float dtype.
        k: [Tk, H, A], dtype of q.
        v: [Tk, H, V], dtype of q.
        q_offsets, k_offsets: [B + 1] int32 or int64, B >= 1: row b holds queries
            q_offsets[b]:q_offsets[b + 1] and keys k_offsets[b]:k_offsets[b + 1].
        spans: which keys each query sees.
        max_seq_len: configured, never read off the batch; it sizes a position table.
        alpha: factor of q.k; default: A ** -0.5.
        bias: added to the scores.

    Returns:
        [Tq, H, V], dtype of q; zeros for a query that sees no key.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range; the message names it.
    """
    check_attention(q, k, v, q_offsets, k_offsets, spans, max_seq_len, bias)
    rows = PaddedRows(q_offsets, k_offsets)
    masks = rows.visible(spans)
    if bias is not None:
        scores = rows.scores(bias, spans)
        masks = [
            score.to(q.dtype).masked_fill(~visible, float("-inf"))
            for score, visible in zip(scores, masks, strict=True)
        ]
    outputs = [
        scaled_dot_product_attention(
            q_.transpose(1, 2), k_.transpose(1, 2), v_.transpose(1, 2), attn_mask=mask, scale=alpha
        ).transpose(1, 2)
        for q_, k_, v_, mask in zip(
            rows.pad_queries(q), rows.pad_keys(k), rows.pad_keys(v), masks, strict=True
        )
    ]
    return rows.unpad_queries(outputs)
