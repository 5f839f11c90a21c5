"""The pre-norm transformer layer of the generative models, on jagged rows."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import silu

from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.rotary_embedding import rotate
from torchrec_gr.ops.jagged_softmax_attention import jagged_softmax_attention

NORM_EPS = 1e-6


class TransformerLayer(nn.Module):
    """x + attention(norm(x)), then x + swiglu(norm(x)); no dropout, no biases.

    Args:
        dim: D, model width.
        num_heads: H; D / H must be whole.

    Raises:
        ValueError: dim is not a multiple of num_heads.

    Source: GPSD, 2506.03699, the released configuration: RMSNorm, RoPE on q and k, SwiGLU.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim, eps=NORM_EPS)
        self.attention = SelfAttention(dim, num_heads)
        self.feed_forward_norm = nn.RMSNorm(dim, eps=NORM_EPS)
        self.feed_forward = SwiGLU(dim)

    def forward(self, x: Tensor, rows: AttentionRows) -> Tensor:
        """Maps tokens [T, D] to those that are asked for, [Tq, D]."""
        x = rows.asked_for(x) + self.attention(self.attention_norm(x), rows)
        return x + self.feed_forward(self.feed_forward_norm(x))


class SelfAttention(nn.Module):
    """Multi-head softmax attention with rotated queries and keys.

    Args:
        dim: D, model width.
        num_heads: H; D / H must be whole.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, rows: AttentionRows) -> Tensor:
        """Maps tokens [T, D] to those that are asked for, [Tq, D]."""
        assert rows.rotation is not None
        q = self.query(rows.asked_for(x)).unflatten(1, (self.num_heads, -1))
        k, v = self.key_value(x).unflatten(1, (2 * self.num_heads, -1)).chunk(2, dim=1)
        attended = jagged_softmax_attention(
            rotate(q, rows.asked_for(rows.rotation)),
            rotate(k, rows.rotation),
            v,
            rows.q_offsets,
            rows.k_offsets,
            rows.spans,
            max_seq_len=rows.max_seq_len,
        )
        return self.output(attended.flatten(1))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), two thirds of 4 D wide, rounded up to a multiple of 32.

    Args:
        dim: D, model width.

    Source: Shazeer, 2002.05202.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = -(-8 * dim // 96) * 32
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens [T, D] to tokens [T, D]."""
        return self.down(silu(self.gate(x)) * self.up(x))
