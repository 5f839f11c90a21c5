"""HSTU's research block as its public code has it: jagged projections, attention of dense rows."""

from __future__ import annotations

import copy

from torch import Tensor

from benchmarks.ops.padded_attention import padded_research_attention
from torchrec_gr.models.hstu import HSTURecommender
from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.hstu_layer import HSTUResearchLayer
from torchrec_gr.modules.sequence_layer import Projected


class PaddedResearchLayer(HSTUResearchLayer):
    """The research block with a bias over positions, of causal rows.

    Of the tokens of a row, its first ones are asked for.
    """

    def attend(self, x: Tensor, projected: Projected, rows: AttentionRows) -> Tensor:
        """Attention and what follows, of the tokens asked for, [Tq, D]."""
        queries, gate = projected.own.unbind(1)
        assert self.bias.position_table is not None
        attended = padded_research_attention(
            queries,
            projected.keys,
            projected.values,
            rows.q_offsets,
            rows.k_offsets,
            self.bias.position_table,
            rows.max_seq_len,
        )
        mixed = self.attention_norm(attended.flatten(1)) * gate.flatten(1)
        return x + self.output(self.dropout(mixed))


def padded(model: HSTURecommender) -> HSTURecommender:
    """A model of the same weights whose layers pad."""
    model = copy.deepcopy(model)
    layers, config = model.body.trunk.layers, model.body.trunk.config
    for index, layer in enumerate(layers):
        other = PaddedResearchLayer(
            config.dim,
            config.num_heads,
            dropout=config.dropout,
            max_seq_len=config.max_seq_len,
        )
        other.load_state_dict(layer.state_dict())
        layers[index] = other
    return model
