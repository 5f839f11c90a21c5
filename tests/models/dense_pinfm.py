"""PinFM's answer to one impression, by its definition: one dense row, every layer written out.

No jagged op, no deduplication, nothing cached: what DCAT is held against. The weights are those of
the encoder that is handed in; in float64 where it was made so.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, silu

from torchrec_gr.models.pinfm import PinFMEncoder
from torchrec_gr.modules.gpt2_layer import GPT2Layer


def dense_answer(
    encoder: PinFMEncoder,
    history: list[Tensor],
    candidates: list[Tensor],
    content: Tensor | None = None,
) -> Tensor:
    """The vectors of B impressions with one history, each computed alone.

    Args:
        encoder: its weights.
        history: embeddings of each feature of the events, [N, D].
        candidates: likewise of the candidates, [B, D].
        content: [B, content_dim].

    Returns:
        [B, 2 * D].
    """
    items, events = sum(candidates), sum(history)
    assert isinstance(items, Tensor)
    assert isinstance(events, Tensor)
    if len(events) == 0:
        hidden = encoder.no_history.expand(len(items), -1)
    elif encoder.fusion.kind == "early":
        if encoder.content is not None:
            items = items + _linear(encoder.content, content)
        row = [_unit_mlp(encoder.token_in, events)]
        if encoder.token is not None:
            row.append(encoder.token[None])
        context = torch.cat(row).expand(len(items), -1, -1)
        rows = torch.cat([context, _unit_mlp(encoder.token_in, items)[:, None]], dim=1)
        hidden = _decode(encoder, rows)[:, -1]
    else:
        states = _decode(encoder, _unit_mlp(encoder.token_in, events)[None])[0]
        pooled = states[-1] if encoder.fusion.kind == "last" else states.mean(dim=0)
        hidden = pooled.expand(len(items), -1)
    return torch.cat([hidden, candidates[0]], dim=1)


def gradients_of(loss: Tensor, of: list[Tensor]) -> list[Tensor]:
    """Of each tensor: zeros where the loss does not reach it."""
    found = torch.autograd.grad(loss, of, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(of, found, strict=True)]


def assert_near(ours: Tensor, exact: Tensor, what: str) -> None:
    """Within rounding of float32 sums, whose terms are as large as the largest value."""
    assert ours.dtype == torch.float32
    assert ours.shape == exact.shape
    largest = float(exact.detach().abs().max()) if exact.numel() else 0.0
    torch.testing.assert_close(
        ours.double(), exact, rtol=0, atol=3e-5 * largest, msg=lambda m: f"{what}: {m}"
    )


def _decode(encoder: PinFMEncoder, rows: Tensor) -> Tensor:
    """[B, N, D] hidden states of rows [B, N, D], in which every token sees those before it."""
    x = rows + encoder.positions.weight[: rows.shape[1]]
    for layer in encoder.layers:
        x = _gpt2(layer, x) if isinstance(layer, GPT2Layer) else _hstu(encoder, layer, x)
    return _unit_mlp(encoder.token_out, _norm(encoder.final_norm, x))


def _gpt2(layer: nn.Module, x: Tensor) -> Tensor:
    q, k, v = _projections(layer, x, 3)
    scores = (q @ k.transpose(2, 3)) / q.shape[3] ** 0.5
    weights = scores.masked_fill(~_causal(x), -torch.inf).softmax(dim=3)
    x = x + _linear(layer.output, _joined(weights @ v))
    up, _, down = layer.feed_forward
    inner = gelu(_linear(up, _norm(layer.feed_forward_norm, x)), approximate="tanh")
    return x + _linear(down, inner)


def _hstu(encoder: PinFMEncoder, layer: nn.Module, x: Tensor) -> Tensor:
    q, gate, k, v = (silu(part) for part in _projections(layer, x, 4))
    # The configured length: the longest history, the learnable token and a candidate.
    weights = silu((q @ k.transpose(2, 3)) / q.shape[3] ** 0.5) / (encoder.max_positions + 2)
    attended = _joined(weights.masked_fill(~_causal(x), 0.0) @ v)
    return x + _linear(layer.output, _norm(layer.attention_norm, attended) * _joined(gate))


def _projections(layer: nn.Module, x: Tensor, parts: int) -> list[Tensor]:
    """`parts` tensors [B, H, N, A]."""
    projected = _linear(layer.projection, _norm(layer.norm, x))
    return [
        part.unflatten(2, (layer.num_heads, -1)).transpose(1, 2)
        for part in projected.chunk(parts, dim=2)
    ]


def _joined(heads: Tensor) -> Tensor:
    """[B, N, D] of [B, H, N, A]."""
    return heads.transpose(1, 2).flatten(2)


def _causal(x: Tensor) -> Tensor:
    return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()


def _unit_mlp(mlp: nn.Module, x: Tensor) -> Tensor:
    first, _, second = mlp.layers
    y = _linear(second, gelu(_linear(first, x)))
    return y / y.square().sum(dim=-1, keepdim=True).sqrt()


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
