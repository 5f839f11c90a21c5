"""The HSTU layer, on jagged rows."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import silu

from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.sequence_layer import Projected, SequenceLayer
from torchrec_gr.ops.hstu_attention import hstu_attention


class HSTULayer(SequenceLayer):
    """x + output(norm(attention) * gate), where q, k, v and gate are silu(projection(norm(x))).

    Attention is SiLU of the scaled products over the configured length, without softmax. Positions
    are the model's: the layer has no bias over them.

    Args:
        dim: D, model width.
        num_heads: H; D / H must be whole.

    Raises:
        ValueError: dim is not a multiple of num_heads.

    Source: HSTU, 2402.17152, equations 1 to 3, in the form of its production code: positions are
        added to the tokens, and products are scaled by A ** -0.5.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads, num_own=2)
        self.attention_norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, dim)

    def activate(self, projected: Tensor) -> Tensor:
        """SiLU of all projections."""
        return silu(projected)

    def attend(self, x: Tensor, projected: Projected, rows: AttentionRows) -> Tensor:
        """The second half: attention and what follows, of the tokens asked for, [Tq, D]."""
        queries, gate = projected.own.unbind(1)
        attended = hstu_attention(
            queries,
            projected.keys,
            projected.values,
            rows.q_offsets,
            rows.k_offsets,
            rows.spans,
            max_seq_len=rows.max_seq_len,
        )
        return x + self.output(self.attention_norm(attended.flatten(1)) * gate.flatten(1))
