"""The transformer layer of LiGR, whose residuals are gated, on jagged rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.dropout import Dropout
from torchrec_gr.modules.relative_bias import BiasKind, RelativeBias
from torchrec_gr.modules.sequence_layer import Projected
from torchrec_gr.modules.softmax_layer import SoftmaxLayer


class LiGRLayer(SoftmaxLayer):
    """x + F(norm(x)) * sigmoid(gate(x)), for attention and for an FFN with SiLU.

    Args:
        dim: D, model width.
        num_heads: H; D / H must be whole.
        feed_forward_dim: width of the FFN.
        dropout: of both halves.
        bias: what is added to the scores.
        max_seq_len: longest row, for a bias with a table of positions.

    Raises:
        ValueError: dim is not a multiple of num_heads.

    Source: LiGR, 2502.03417, gated residuals of both sublayers; the FFN's activation is ours.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feed_forward_dim: int,
        *,
        dropout: float = 0.0,
        bias: BiasKind = "none",
        max_seq_len: int = 1,
    ) -> None:
        super().__init__(dim, num_heads)
        self.bias = RelativeBias(bias, num_heads, max_seq_len)
        self.output = nn.Linear(dim, dim)
        self.attention_gate = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, feed_forward_dim), nn.SiLU(), nn.Linear(feed_forward_dim, dim)
        )
        self.feed_forward_gate = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    def attend(self, x: Tensor, projected: Projected, rows: AttentionRows) -> Tensor:
        """The second half: attention and what follows, of the tokens asked for, [Tq, D]."""
        attended = self.dropout(self.output(self.attended(projected, rows, self.bias(rows))))
        x = x + attended * torch.sigmoid(self.attention_gate(x))
        fed = self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x + fed * torch.sigmoid(self.feed_forward_gate(x))
