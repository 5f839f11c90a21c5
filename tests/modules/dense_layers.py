"""The trunk's layers written out for padded rows, straight from the papers, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import silu

from torchrec_gr.modules.hstu_layer import HSTULayer, HSTUResearchLayer
from torchrec_gr.modules.ligr_layer import LiGRLayer
from torchrec_gr.modules.relative_bias import RelativeBias, alibi_slopes
from torchrec_gr.modules.sasrec_layer import SASRecLayer
from torchrec_gr.modules.sequence_layer import SequenceLayer

Drop = Callable[[Tensor], Tensor]
Weights = dict[str, Tensor]


def dense_layer(
    layer: SequenceLayer,
    x: Tensor,
    times: Sequence[Sequence[int]],
    max_seq_len: int,
    drop: Drop = lambda x: x,
) -> Tensor:
    """[B, N, D] of padded causal rows [B, N, D], by the layer's own weights.

    What stands in the padding, which is behind a row's tokens, reaches none of them.

    Args:
        layer: whose weights.
        x: float64.
        times: of each row's events, for a bias over time.
        max_seq_len: n of HSTU, middle of the position table.
        drop: in the place of dropout.
    """
    weights = {name: parameter.double() for name, parameter in layer.named_parameters()}
    bias = _bias(layer, weights, times, x.shape[1], max_seq_len)
    heads = layer.num_heads
    if isinstance(layer, HSTUResearchLayer):
        return _hstu_research(weights, heads, x, bias, max_seq_len, drop)
    if isinstance(layer, HSTULayer):
        return _hstu(weights, heads, x, bias, max_seq_len, drop)
    if isinstance(layer, SASRecLayer):
        return _sasrec(weights, heads, x, bias, drop)
    assert isinstance(layer, LiGRLayer)
    return _ligr(weights, heads, x, bias, drop)


def _hstu_research(w: Weights, heads: int, x: Tensor, rab: Tensor, n: int, drop: Drop) -> Tensor:
    """HSTU, 2402.17152, the released research code: a norm without weights, A = silu(QK' + rab)/n,
    masked after; X + Linear(dropout(U * norm(AV)))."""
    normed = _norm(x, 1e-6)
    q, u, k, v = (silu(normed @ part.t()) for part in w["projection.weight"].chunk(4))
    q, k, v = (_split(t, heads) for t in (q, k, v))
    attention = silu(q @ k.transpose(-1, -2) + rab) / n
    attention = attention * torch.ones_like(attention).tril()
    return (
        x + drop(u * _norm(_join(attention @ v), 1e-6)) @ w["output.weight"].t() + w["output.bias"]
    )


def _hstu(w: Weights, heads: int, x: Tensor, bias: Tensor, n: int, drop: Drop) -> Tensor:
    """HSTU, 2402.17152, equations 1 to 3, with q.k scaled and norms that have weights."""
    normed = _norm(x, 1e-5, w["norm.weight"], w["norm.bias"])
    q, u, k, v = silu(_linear(normed, w, "projection")).chunk(4, dim=-1)
    q, k, v = (_split(t, heads) for t in (q, k, v))
    attention = silu(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias) / n
    attention = attention * torch.ones_like(attention).tril()
    normed = _norm(_join(attention @ v), 1e-5, w["attention_norm.weight"], w["attention_norm.bias"])
    return x + _linear(drop(normed * u), w, "output")


def _sasrec(w: Weights, heads: int, x: Tensor, bias: Tensor, drop: Drop) -> Tensor:
    """SASRec, 1808.09781, section 3.2: x + dropout(g(norm(x))), g attention, then an FFN."""
    x = x + drop(_softmax_attention(w, heads, x, bias))
    normed = _norm(x, 1e-5, w["feed_forward_norm.weight"], w["feed_forward_norm.bias"])
    inner = drop(_linear(normed, w, "feed_forward.0").clamp(min=0))
    return x + drop(_linear(inner, w, "feed_forward.3"))


def _ligr(w: Weights, heads: int, x: Tensor, bias: Tensor, drop: Drop) -> Tensor:
    """LiGR, 2502.03417: h + F(norm(h)) * sigmoid(h W), for both sublayers."""
    gate = _linear(x, w, "attention_gate").sigmoid()
    x = x + drop(_softmax_attention(w, heads, x, bias)) * gate
    normed = _norm(x, 1e-5, w["feed_forward_norm.weight"], w["feed_forward_norm.bias"])
    fed = _linear(silu(_linear(normed, w, "feed_forward.0")), w, "feed_forward.2")
    gate = _linear(x, w, "feed_forward_gate").sigmoid()
    return x + drop(fed) * gate


def _softmax_attention(w: Weights, heads: int, x: Tensor, bias: Tensor) -> Tensor:
    normed = _norm(x, 1e-5, w["norm.weight"], w["norm.bias"])
    q, k, v = (_split(t, heads) for t in _linear(normed, w, "projection").chunk(3, dim=-1))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias
    hidden = torch.ones_like(scores).triu(1).bool()
    attention = scores.masked_fill(hidden, -math.inf).softmax(dim=-1)
    return _linear(_join(attention @ v), w, "output")


def _bias(
    layer: SequenceLayer,
    w: Weights,
    times: Sequence[Sequence[int]],
    num_tokens: int,
    max_seq_len: int,
) -> Tensor:
    """[B or 1, H or 1, N, N]: w_pos[j - i] + w_time[bucket(t_{i + 1} - t_j)], or ALiBi's."""
    assert isinstance(layer.bias, RelativeBias)
    places = torch.arange(num_tokens)
    distance = places - places[:, None]
    if layer.bias.kind == "alibi":
        slopes = torch.tensor(alibi_slopes(layer.num_heads), dtype=torch.float64)
        return -slopes[:, None, None] * distance.abs()
    if layer.bias.kind == "none":
        return torch.zeros(1, 1, num_tokens, num_tokens, dtype=torch.float64)
    bias = w["bias.position_table"][0][distance + max_seq_len - 1][None, None]
    if layer.bias.kind == "position":
        return bias
    buckets = [_row_buckets(row, num_tokens) for row in times]
    return bias + w["bias.time_table"][0][torch.tensor(buckets)][:, None]


def _row_buckets(times: Sequence[int], num_tokens: int) -> list[list[int]]:
    """[N][N] buckets of a row, whose last event has no next one and asks from its own time."""
    next_times = [*times[1:], *times[-1:]]
    buckets = [[0] * num_tokens for _ in range(num_tokens)]
    for i, asked_from in enumerate(next_times):
        for j, time in enumerate(times):
            log_elapsed = math.log(max(abs(asked_from - time), 1))
            buckets[i][j] = min(math.floor(log_elapsed / 0.301), 128)
    return buckets


def _norm(
    x: Tensor, eps: float, weight: Tensor | float = 1.0, shift: Tensor | float = 0.0
) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt() * weight + shift


def _linear(x: Tensor, w: Weights, name: str) -> Tensor:
    return x @ w[f"{name}.weight"].t() + w[f"{name}.bias"]


def _split(x: Tensor, heads: int) -> Tensor:
    """[B, H, N, A] of [B, N, D]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _join(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
