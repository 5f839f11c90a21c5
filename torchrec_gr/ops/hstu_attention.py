"""HSTU's attention of jagged rows: SiLU in the place of softmax, nothing normalised."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import silu

from torchrec_gr.ops.attention_bias import AttentionBias
from torchrec_gr.ops.attention_checks import check_attention, check_scale
from torchrec_gr.ops.attention_spans import KeySpans
from torchrec_gr.ops.padded_rows import PaddedRows


def hstu_attention(
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
    """Pointwise attention of every query over the keys that it sees in its own row.

    Computes silu(alpha * q.k + bias) * scale, summed over the visible keys' v, on rows padded by
    length class (`padded_rows`); `hstu_attention_reference` is its definition.

    Args:
        q: [Tq, H, A], any float dtype.
        k: [Tk, H, A], dtype of q.
        v: [Tk, H, V], dtype of q.
        q_offsets, k_offsets: [B + 1] int32 or int64, B >= 1: row b holds queries
            q_offsets[b]:q_offsets[b + 1] and keys k_offsets[b]:k_offsets[b + 1].
        spans: which keys each query sees.
        max_seq_len: configured, never read off the batch: a batch's company must not change a row's
            output. It sets the default scale and sizes a position table.
        alpha: factor of q.k; default: A ** -0.5.
        scale: factor of the result, one for all or [Tq]; default: 1 / max_seq_len.
        bias: added to the scores.

    Returns:
        [Tq, H, V], dtype of q; zeros for a query that sees no key.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range; the message names it.

    Source: HSTU, 2402.17152, section 3.2, equation 2; the research code divides by the padded
        length, production code by max_seq_len and scales q.k as here.
    """
    check_attention(q, k, v, q_offsets, k_offsets, spans, max_seq_len, bias)
    scale = 1.0 / max_seq_len if scale is None else scale
    if isinstance(scale, Tensor):
        check_scale(scale, q)
        scale = scale.to(q.dtype)[:, None, None]
    alpha = q.shape[2] ** -0.5 if alpha is None else alpha
    rows = PaddedRows(q_offsets, k_offsets)
    masks = rows.visible(spans)
    biases = [None] * len(masks) if bias is None else rows.scores(bias, spans)
    outputs = [
        _attend(q_ * alpha, k_, v_, mask, score)
        for q_, k_, v_, mask, score in zip(
            rows.pad_queries(q), rows.pad_keys(k), rows.pad_keys(v), masks, biases, strict=True
        )
    ]
    return rows.unpad_queries(outputs) * scale


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, bias: Tensor | None) -> Tensor:
    """Attends on padded rows: [R, Q, H, A], [R, K, H, A], [R, K, H, V] to [R, Q, H, V]."""
    scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    weights = silu(scores).masked_fill(~visible, 0.0)
    return (weights @ v.transpose(1, 2)).transpose(1, 2)
