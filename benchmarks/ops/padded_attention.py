"""Attention of jagged rows as people write it in PyTorch: pad the rows, attend, unpad.

What the ops are measured against. Each takes and returns jagged tensors, so padding is part of its
time; FBGEMM's is the fastest padding on CPU. All are causal: padding stands behind the tokens, so
no token sees it, and the causal mask, made once, is all the mask they need.
"""

from __future__ import annotations

import functools

import fbgemm_gpu  # noqa: F401  (registers the jagged ops)
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu


def padded_hstu_attention(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, max_seq_len: int
) -> Tensor:
    """silu(alpha * q.k) / N of all pairs, times a mask of ones and zeros, times v.

    Args:
        q, k, v: [T, H, D].
        offsets: [B + 1] integers.
        max_seq_len: N, no row is longer.

    Returns:
        [T, H, D].
    """
    alpha = q.shape[2] ** -0.5
    q, k, v = (_pad(x, offsets, max_seq_len) for x in (q, k, v))
    weights = silu((alpha * q) @ k.transpose(2, 3)) / max_seq_len
    return _unpad((weights * _causal(max_seq_len, q.dtype)) @ v, offsets)


def padded_research_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    position_table: Tensor,
    max_seq_len: int,
) -> Tensor:
    """silu(q.k + w[place of k - place of q]) / N of all pairs, masked, times v, as HSTU's code.

    Args:
        q: [Tq, H, D], of the first tokens of each row.
        k, v: [T, H, D].
        q_offsets, k_offsets: [B + 1] integers.
        position_table: [1, 2 * N - 1], w: the entry of distance 0 in its middle.
        max_seq_len: N, no row is longer.

    Returns:
        [Tq, H, D].
    """
    q = _pad(q, q_offsets, max_seq_len)
    k, v = (_pad(x, k_offsets, max_seq_len) for x in (k, v))
    bias = position_table[0].unfold(0, max_seq_len, 1).flip(0)
    weights = silu(q @ k.transpose(2, 3) + bias) / max_seq_len
    return _unpad((weights * _causal(max_seq_len, q.dtype)) @ v, q_offsets)


def padded_softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, max_seq_len: int
) -> Tensor:
    """softmax(alpha * q.k) over all pairs but the masked ones, times v; arguments as above."""
    alpha = q.shape[2] ** -0.5
    q, k, v = (_pad(x, offsets, max_seq_len) for x in (q, k, v))
    scores = (alpha * q) @ k.transpose(2, 3)
    hidden = ~_causal(max_seq_len, torch.bool)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(dim=3)
    return _unpad(weights @ v, offsets)


def padded_sdpa(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, max_seq_len: int) -> Tensor:
    """PyTorch's fused softmax attention; arguments as above."""
    q, k, v = (_pad(x, offsets, max_seq_len) for x in (q, k, v))
    return _unpad(scaled_dot_product_attention(q, k, v, is_causal=True), offsets)


@functools.cache
def _causal(max_seq_len: int, dtype: torch.dtype) -> Tensor:
    return torch.ones(max_seq_len, max_seq_len, dtype=dtype).tril()


def _pad(x: Tensor, offsets: Tensor, max_seq_len: int) -> Tensor:
    """[T, H, D] to [B, H, N, D]."""
    padded = torch.ops.fbgemm.jagged_to_padded_dense(x.flatten(1), [offsets], [max_seq_len], 0.0)
    return padded.unflatten(2, x.shape[1:]).transpose(1, 2)


def _unpad(x: Tensor, offsets: Tensor) -> Tensor:
    """[B, H, N, D] to [T, H, D]."""
    values, _ = torch.ops.fbgemm.dense_to_jagged(x.transpose(1, 2).flatten(2), [offsets])
    return values.unflatten(1, (x.shape[1], x.shape[3]))
