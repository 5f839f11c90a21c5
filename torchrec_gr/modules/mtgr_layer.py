"""The MTGR block, on jagged rows of tokens of several groups."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.group_layer_norm import GroupLayerNorm
from torchrec_gr.ops.attention_bias import AttentionBias
from torchrec_gr.ops.hstu_attention import hstu_attention


class MTGRLayer(nn.Module):
    """x + MLP(norm(attention * gate)), where q, k, v and gate are silu(projection(norm(x))).

    Both norms have a scale and a shift of their own for each group of tokens. Attention is SiLU of
    the scaled products, without softmax, over the number of keys that the query sees.

    Args:
        dim: D, model width.
        num_heads: H; D / H must be whole.
        num_groups: G, groups of tokens.
        max_positions: positions that the learned bias tells apart; None: no bias.

    Raises:
        ValueError: dim is not a multiple of num_heads.

    Source: MTGR, 2505.18654, the block. The paper does not say whether projections have an
        activation, nor of any position: SiLU is HSTU's, the bias is ours. It divides by the number
        of all tokens of the row, which would tell a candidate how much comes after it.
    """

    def __init__(
        self, dim: int, num_heads: int, num_groups: int, max_positions: int | None
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        self.dim = dim
        self.num_heads = num_heads
        self.norm = GroupLayerNorm(dim, num_groups)
        self.projection = nn.Linear(dim, 4 * dim)
        self.attention_norm = GroupLayerNorm(dim, num_groups)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.position_table = (
            None
            if max_positions is None
            else nn.Parameter(torch.zeros(num_heads, 2 * max_positions - 1))
        )

    def forward(self, x: Tensor, rows: AttentionRows, groups: Tensor, positions: Tensor) -> Tensor:
        """Maps tokens to those that are asked for.

        Args:
            x: [T, D].
            rows: which tokens are asked for, and what each of them sees.
            groups: [T] int64, the group of every token.
            positions: [T] int64, where every token stands, as the learned bias counts.

        Returns:
            [Tq, D].
        """
        queries, keys, values, gate = self._project(self.norm(x, groups), rows)
        attended = hstu_attention(
            queries,
            keys,
            values,
            rows.q_offsets,
            rows.k_offsets,
            rows.spans,
            max_seq_len=rows.max_seq_len,
            scale=1 / rows.spans.num_visible(rows.q_offsets, rows.k_offsets),
            bias=self._bias(rows, positions),
        )
        mixed = self.attention_norm(attended.flatten(1) * gate, rows.asked_for(groups))
        return rows.asked_for(x) + self.mlp(mixed)

    def _project(self, x: Tensor, rows: AttentionRows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries [Tq, H, A], keys, values [T, H, A] and gate [Tq, D]."""
        if rows.wanted is None:
            queries, gate, keys, values = silu(self.projection(x)).chunk(4, dim=1)
        else:
            own = self._part(rows.asked_for(x), slice(2 * self.dim))
            queries, gate = own.chunk(2, dim=1)
            keys, values = self._part(x, slice(2 * self.dim, None)).chunk(2, dim=1)
        return self._heads(queries), self._heads(keys), self._heads(values), gate

    def _part(self, x: Tensor, part: slice) -> Tensor:
        return silu(linear(x, self.projection.weight[part], self.projection.bias[part]))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.num_heads, -1))

    def _bias(self, rows: AttentionRows, positions: Tensor) -> AttentionBias | None:
        if self.position_table is None:
            return None
        return AttentionBias(
            position_table=self.position_table,
            q_positions=rows.asked_for(positions),
            k_positions=positions,
        )
