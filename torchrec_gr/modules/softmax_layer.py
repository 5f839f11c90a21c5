"""A decoder layer on jagged rows whose attention is a softmax."""

from __future__ import annotations

from torch import Tensor

from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.sequence_layer import Projected, SequenceLayer
from torchrec_gr.ops.attention_bias import AttentionBias
from torchrec_gr.ops.jagged_softmax_attention import jagged_softmax_attention


class SoftmaxLayer(SequenceLayer):
    """A `SequenceLayer` of queries, keys and values alone.

    Args:
        dim: D, model width.
        num_heads: H; D / H must be whole.

    Raises:
        ValueError: dim is not a multiple of num_heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads, num_own=1)

    def attended(
        self, projected: Projected, rows: AttentionRows, bias: AttentionBias | None = None
    ) -> Tensor:
        """What the tokens asked for read of all others, [Tq, D], heads side by side."""
        read = jagged_softmax_attention(
            projected.own.select(1, 0),
            projected.keys,
            projected.values,
            rows.q_offsets,
            rows.k_offsets,
            rows.spans,
            max_seq_len=rows.max_seq_len,
            bias=bias,
        )
        return read.flatten(1)
