"""PinFM's encoder as people write a transformer in PyTorch: a dense batch, a row an impression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention
from torchrec.sparse.jagged_tensor import JaggedTensor

from torchrec_gr.models.pinfm import PinFMEncoder
from torchrec_gr.modules.gpt2_layer import GPT2Layer


def padded_answers(
    encoder: PinFMEncoder, history: Sequence[JaggedTensor], candidates: Sequence[JaggedTensor]
) -> Tensor:
    """What the encoder gives for impressions whose histories are all of one length, not 0.

    Args:
        encoder: of GPT-2 layers, early fusion, without learnable token and content: its weights.
        history: embeddings of each feature of the events, B * N values of width D.
        candidates: likewise of the candidates, B values.

    Returns:
        [B, 2 * D].
    """
    items = candidates[0].values()
    events = torch.stack([feature.values() for feature in history]).sum(dim=0)
    rows = torch.cat([events.unflatten(0, (len(items), -1)), items[:, None]], dim=1)
    x = encoder.token_in(rows) + encoder.positions.weight[: rows.shape[1]]
    *earlier, last = cast("list[GPT2Layer]", list(encoder.layers))
    for layer in earlier:
        q, k, v = _heads(layer, layer.projection(layer.norm(x)))
        x = _rest(layer, x, scaled_dot_product_attention(q, k, v, is_causal=True))
    answered = _last(last, x)
    return torch.cat([encoder.token_out(encoder.final_norm(answered)), items], dim=1)


def _last(layer: GPT2Layer, x: Tensor) -> Tensor:
    """[B, D]: queries, and all that follows them, are the candidates' alone."""
    normed, weight, bias = layer.norm(x), layer.projection.weight, layer.projection.bias
    width = layer.projection.in_features
    (q,) = _heads(layer, linear(normed[:, -1:], weight[:width], bias[:width]))
    k, v = _heads(layer, linear(normed, weight[width:], bias[width:]))
    return _rest(layer, x[:, -1:], scaled_dot_product_attention(q, k, v)).squeeze(1)


def _rest(layer: GPT2Layer, x: Tensor, attended: Tensor) -> Tensor:
    """What follows attention [B, H, N, A]: [B, N, D]."""
    x = x + layer.output(attended.transpose(1, 2).flatten(2))
    return x + layer.feed_forward(layer.feed_forward_norm(x))


def _heads(layer: GPT2Layer, projected: Tensor) -> tuple[Tensor, ...]:
    """Tensors [B, H, N, A] of their projections, side by side in [B, N, parts * D]."""
    width = layer.projection.in_features
    return tuple(
        part.unflatten(2, (layer.num_heads, -1)).transpose(1, 2)
        for part in projected.split(width, dim=2)
    )
