"""Softmax attention of jagged rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchrec_gr.ops.attention_bias import AttentionBias, bias_arguments
from torchrec_gr.ops.attention_registration import (
    argument_gradients,
    empty_gradients,
    empty_output,
    refuse_second_derivative,
    save_arguments,
)
from torchrec_gr.ops.attention_spans import KeySpans
from torchrec_gr.ops.autocast import cast_under_autocast


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

    Computes softmax(alpha * q.k + bias) over the visible keys, times their v. Sums are kept in
    float32, and nothing of the size of queries times keys is stored; two runs give the same bits
    for the same number of threads. Once differentiable, in q, k, v and the bias's tables.
    `jagged_softmax_attention_reference` is its definition.

    On a GPU the values of offsets, own places and positions are not checked, since that would wait
    for the device. Under torch.autocast q, k and v are cast to its dtype.

    Args:
        q: [Tq, H, A], float32 or bfloat16, A from 1 to 256; of any strides, best with its last axis
            contiguous, as in a chunk of a fused projection: it is copied otherwise.
        k: [Tk, H, A], likewise, dtype of q.
        v: [Tk, H, V], likewise, V from 1 to 256.
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

    Source: the transformers of GPSD (2506.03699) and PinFM; the sums of exponentials that the
        backward reads are FlashAttention's, 2205.14135.
    """
    q, k, v = cast_under_autocast(q, k, v)
    # That a q without a width has no default the op finds and says.
    alpha = max(1, q.shape[-1:].numel()) ** -0.5 if alpha is None else alpha
    output, _ = torch.ops.torchrec_gr.jagged_softmax_attention(
        q,
        k,
        v,
        q_offsets,
        k_offsets,
        spans.start,
        spans.end,
        spans.own,
        *bias_arguments(bias),
        max_seq_len,
        alpha,
    )
    return output


@torch.library.register_fake("torchrec_gr::jagged_softmax_attention")
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    output = empty_output(*arguments)
    return output, output.new_empty(output.shape[:2], dtype=torch.float32)


@torch.library.register_fake("torchrec_gr::jagged_softmax_attention_backward")
def _(grad: Tensor, output: Tensor, log_sum_exp: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return empty_gradients(*arguments)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    save_arguments(ctx, inputs, *output)
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    backward = torch.ops.torchrec_gr.jagged_softmax_attention_backward
    return argument_gradients(ctx, backward(grad, *ctx.saved_tensors, *ctx.numbers))


torch.library.register_autograd(
    "torchrec_gr::jagged_softmax_attention", _gradients, setup_context=_save
)
torch.library.register_autograd(
    "torchrec_gr::jagged_softmax_attention_backward", refuse_second_derivative
)
