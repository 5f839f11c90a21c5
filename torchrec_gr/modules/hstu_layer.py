"""The HSTU layer in its two published forms, on jagged rows."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import silu

from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.dropout import Dropout
from torchrec_gr.modules.relative_bias import INIT_STD, BiasKind, RelativeBias
from torchrec_gr.modules.sequence_layer import Projected, SequenceLayer
from torchrec_gr.ops.hstu_attention import hstu_attention

RESEARCH_NORM_EPS = 1e-6


class HSTULayer(SequenceLayer):
    """x + output(norm(attention) * gate), where q, k, v and gate are silu(projection(norm(x))).

    Attention is SiLU of the scaled products over the configured length, without softmax. As in the
    production code positions are added to the tokens and products are scaled by A ** -0.5;
    projections keep the paper's SiLU, which the production code has on the gate alone.

    Args:
        dim: D, model width.
        num_heads: H; D / H must be whole.
        dropout: of what the output projection reads.
        bias: what is added to the scores.
        max_seq_len: longest row, for a bias with a table of positions.

    Raises:
        ValueError: dim is not a multiple of num_heads.

    Source: HSTU, 2402.17152, equations 1 to 3.
    """

    alpha: float | None = None

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        dropout: float = 0.0,
        bias: BiasKind = "none",
        max_seq_len: int = 1,
    ) -> None:
        super().__init__(dim, num_heads, num_own=2)
        self.bias = RelativeBias(bias, num_heads, max_seq_len)
        self.attention_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
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
            alpha=self.alpha,
            bias=self.bias(rows),
        )
        mixed = self.attention_norm(attended.flatten(1)) * gate.flatten(1)
        return x + self.output(self.dropout(mixed))


class HSTUResearchLayer(HSTULayer):
    """The research form: norms without weights, q.k as it is, tables of position and time.

    Arguments as `HSTULayer`'s.

    Source: HSTU, 2402.17152, and the configuration behind its public table.
    """

    alpha = 1.0

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        dropout: float = 0.0,
        bias: BiasKind = "position",
        max_seq_len: int = 1,
    ) -> None:
        super().__init__(dim, num_heads, dropout=dropout, bias=bias, max_seq_len=max_seq_len)
        self.norm = nn.LayerNorm(dim, eps=RESEARCH_NORM_EPS, elementwise_affine=False)
        self.attention_norm = nn.LayerNorm(dim, eps=RESEARCH_NORM_EPS, elementwise_affine=False)
        self.projection = nn.Linear(dim, 4 * dim, bias=False)
        nn.init.normal_(self.projection.weight, std=INIT_STD)
        nn.init.xavier_uniform_(self.output.weight)
