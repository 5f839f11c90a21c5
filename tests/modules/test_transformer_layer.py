"""The layer against one written out for a single dense row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.rotary_embedding import RotaryEmbedding, rotate
from torchrec_gr.modules.transformer_layer import SwiGLU, TransformerLayer
from torchrec_gr.sequences.visibility import causal

DIM, HEADS = 16, 4


def _rows(offsets: Tensor) -> AttentionRows:
    lengths = offsets.diff()
    positions = torch.arange(int(offsets[-1])) - offsets[:-1].repeat_interleave(lengths)
    rotation = RotaryEmbedding(DIM // HEADS)(positions)
    return AttentionRows(offsets, offsets, causal(offsets), 20, rotation)


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * weight


def _by_definition(layer: TransformerLayer, x: Tensor) -> Tensor:
    """One row [N, D]."""
    parts = dict(layer.named_parameters())
    h = _norm(x, parts["attention_norm.weight"])
    key, value = parts["attention.key_value.weight"].chunk(2)
    rotation = RotaryEmbedding(DIM // HEADS)(torch.arange(len(x)))
    q, k, v = (
        (h @ w.t()).view(len(x), HEADS, -1) for w in (parts["attention.query.weight"], key, value)
    )
    q, k = rotate(q, rotation), rotate(k, rotation)
    attended = scaled_dot_product_attention(
        *(t.transpose(0, 1) for t in (q, k, v)), is_causal=True
    ).transpose(0, 1)
    x = x + attended.reshape(len(x), -1) @ parts["attention.output.weight"].t()
    h = _norm(x, parts["feed_forward_norm.weight"])
    gate, up = h @ parts["feed_forward.gate.weight"].t(), h @ parts["feed_forward.up.weight"].t()
    return x + (silu(gate) * up) @ parts["feed_forward.down.weight"].t()


def _layer() -> TransformerLayer:
    torch.manual_seed(0)
    layer = TransformerLayer(DIM, HEADS)
    torch.nn.init.normal_(layer.attention_norm.weight)
    torch.nn.init.normal_(layer.feed_forward_norm.weight)
    return layer


def test_equals_the_definition_row_by_row() -> None:
    layer, offsets = _layer(), torch.tensor([0, 4, 4, 5, 17])
    x = torch.randn(17, DIM)
    output = layer(x, _rows(offsets))
    for first, last in ((0, 4), (4, 5), (5, 17)):
        torch.testing.assert_close(output[first:last], _by_definition(layer, x[first:last]))


def test_narrowed_rows_give_the_same_tokens() -> None:
    layer, rows = _layer(), _rows(torch.tensor([0, 4, 4, 5, 17]))
    x = torch.randn(17, DIM)
    wanted = torch.tensor([0, 2, 5, 6, 16])
    torch.testing.assert_close(layer(x, rows.narrowed_to(wanted)), layer(x, rows)[wanted])
    nothing = layer(x, rows.narrowed_to(wanted[:0]))
    assert nothing.shape == (0, DIM)
    nothing.sum().backward()


@pytest.mark.parametrize(("dim", "hidden"), [(12, 32), (32, 96), (64, 192), (128, 352), (256, 704)])
def test_swiglu_is_two_thirds_of_four_dims_in_multiples_of_32(dim: int, hidden: int) -> None:
    assert SwiGLU(dim).down.in_features == hidden


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="16 is not a multiple of num_heads 3"):
        TransformerLayer(16, 3)
