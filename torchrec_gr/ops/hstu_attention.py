"""HSTU's attention of jagged rows: SiLU in the place of softmax, nothing normalised."""

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

    Computes silu(alpha * q.k + bias) * scale, summed over the visible keys' v. Sums are kept in
    float32, and nothing of the size of queries times keys is stored; two runs give the same bits
    for the same number of threads. Once differentiable, in q, k, v, a scale that is a tensor and
    the bias's tables. `hstu_attention_reference` is its definition.

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
    q, k, v = cast_under_autocast(q, k, v)
    # What makes a default impossible (no width, max_seq_len 0) the op finds and says.
    alpha = max(1, q.shape[-1:].numel()) ** -0.5 if alpha is None else alpha
    scale = 1 / max(1, max_seq_len) if scale is None else scale
    factor = 1.0 if isinstance(scale, Tensor) else scale
    output = torch.ops.torchrec_gr.hstu_attention(
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
        factor,
    )
    return _scaled(output, scale) if isinstance(scale, Tensor) else output


def _scaled(output: Tensor, scale: Tensor) -> Tensor:
    """The output times one factor a query, so that autograd finds the factors' gradients."""
    if scale.shape != output.shape[:1] or not scale.is_floating_point():
        raise ValueError(
            f"scale: expected a float or floats [{len(output)}], one a query; got "
            f"{list(scale.shape)} {scale.dtype}"
        )
    if scale.device != output.device:
        raise ValueError(f"scale: expected the device of q, {output.device}; got {scale.device}")
    return (output * scale[:, None, None]).to(output.dtype)


@torch.library.register_fake("torchrec_gr::hstu_attention")
def _(*arguments: Any) -> Tensor:
    return empty_output(*arguments)


@torch.library.register_fake("torchrec_gr::hstu_attention_backward")
def _(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return empty_gradients(*arguments)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    save_arguments(ctx, inputs)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    backward = torch.ops.torchrec_gr.hstu_attention_backward
    return argument_gradients(ctx, backward(grad, *ctx.saved_tensors, *ctx.numbers))


torch.library.register_autograd("torchrec_gr::hstu_attention", _gradients, setup_context=_save)
torch.library.register_autograd("torchrec_gr::hstu_attention_backward", refuse_second_derivative)
