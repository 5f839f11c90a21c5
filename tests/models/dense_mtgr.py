"""MTGR by its definition: one row at a time, a dense mask written pair by pair, in float64.

No jagged op, no spans, no pieces: what MTGRRanker is held against. The weights are those of the
ranker that is handed in, so gradients reach them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from tests.models.dense_ranker import (
    DenseRanker,
    Row,
    exact,
    layer_norm,
    linear,
    mlp,
    normalised,
)
from torchrec_gr.models.mtgr import MTGRRanker
from torchrec_gr.models.mtgr_config import MTGRConfig
from torchrec_gr.modules.group_layer_norm import GroupLayerNorm
from torchrec_gr.modules.mtgr_layer import MTGRLayer
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.sequences.request_batch import NO_TIME


class _Token(NamedTuple):
    kind: str
    place: int
    time: int = 0


class DenseMTGR(DenseRanker):
    """By the weights of a ranker."""

    def __init__(self, ranker: MTGRRanker, config: MTGRConfig, schema: FeatureSchema) -> None:
        self.config, self.trunk, self.reader = config, ranker.body.trunk, ranker.body.reader
        super().__init__(schema, ranker.embeddings, self.trunk.user, self.trunk.heads)

    def of_row(self, row: Row) -> Tensor:
        user = self.user_tokens(row)
        kinds = ["static" if i < row.num_static else "real_time" for i in range(row.num_events)]
        tokens = [_Token("user", place) for place in range(len(user))]
        for kind, time in zip(kinds, row.event_times, strict=True):
            tokens.append(_Token(kind, len(tokens), time))
        for time in row.candidate_times:
            tokens.append(_Token("candidate", len(tokens), time))
        first = min(row.candidate_times, default=0)
        mask = torch.tensor([[self._sees(q, k, first) for k in tokens] for q in tokens])
        mask = mask.reshape(len(tokens), len(tokens))
        num_context = len(user) + row.num_events
        num_seen = mask[num_context:, len(user) : num_context].sum(1)
        places = torch.arange(len(tokens))
        places[num_context:] = len(user) + num_seen

        vectors = [*user, *self._event_tokens(row), *self._candidate_tokens(row, num_seen)]
        if row.num_candidates == 0:
            return torch.zeros(0, len(self.schema.labels), dtype=torch.float64)
        x = torch.stack(vectors)
        group_of = {k: g for g, ks in enumerate(self.config.norm_groups) for k in ks}
        groups = [group_of[token.kind] for token in tokens]
        for layer in self.trunk.layers:
            x = self._layer(layer, x, mask, groups, places)
        return self.heads(layer_norm(self.trunk.final_norm, x[num_context:]))

    def _sees(self, q: _Token, k: _Token, first_exposure: int) -> bool:
        if q == k:
            return True
        if k.kind == "candidate":
            return False
        if k.kind == "user":
            return True
        if q.kind == "user":
            return (
                self.config.mask == "dynamic" and self.config.flow == "mtgr" and k.kind == "static"
            )
        exposure = first_exposure if self.config.mask == "causal" else q.time
        if self.config.mask == "causal" or self.config.flow == "dfgr":
            if q.kind == "candidate":
                return k.time < exposure
            return k.time < q.time or (
                k.time == q.time and (k.time != NO_TIME or k.place < q.place)
            )
        if k.kind == "static":
            return True
        if q.kind == "static":
            return False
        return k.time < exposure if q.kind == "candidate" else k.time <= q.time

    def _event_tokens(self, row: Row) -> list[Tensor]:
        return [
            mlp(self.trunk.event, torch.cat([*self.embeddings("history", row, i), numbers]))
            for i, numbers in enumerate(row.event_numbers)
        ]

    def _candidate_tokens(self, row: Row, num_seen: Tensor) -> list[Tensor]:
        tokens = []
        for i in range(row.num_candidates):
            seen = num_seen[i : i + 1].double().log1p()
            parts = torch.cat([self.candidate_features(row, i), seen])
            token = mlp(self.trunk.candidate, parts)
            if self.config.flow == "dfgr":
                token = token + mlp(self.trunk.event, self._as_event(row, i))
            tokens.append(token)
        return tokens

    def _as_event(self, row: Row, i: int) -> Tensor:
        """What an event has, of the candidate's own where it has the same column."""
        parts, num_missing = [], 0
        for feature in self.schema.of("history"):
            twins = [f.name for f in self.schema.of("candidate") if f.column == feature.column]
            if twins:
                parts.append(self.embedding(twins[0], row.ids(twins[0]))[i])
            else:
                assert self.reader.placeholders is not None
                parts.append(exact(self.reader.placeholders[num_missing]))
                num_missing += 1
        columns = [f.column for f in self.schema.of("candidate", "dense")]
        for feature in self.schema.of("history", "dense"):
            known = feature.column in columns
            place = columns.index(feature.column) if known else 0
            parts.append(row.candidate_numbers[i][place : place + 1] * known)
        return torch.cat(parts)

    def _layer(
        self, layer: MTGRLayer, x: Tensor, mask: Tensor, groups: list[int], places: Tensor
    ) -> Tensor:
        projected = silu(linear(layer.projection, _group_norm(layer.norm, x, groups)))
        q, gate, k, v = projected.chunk(4, dim=1)
        width, of_heads = layer.dim // layer.num_heads, []
        for h in range(layer.num_heads):
            part = slice(h * width, (h + 1) * width)
            scores = q[:, part] @ k[:, part].T * width**-0.5
            if layer.position_table is not None:
                distance = places[None, :] - places[:, None]
                table = exact(layer.position_table[h])
                scores = scores + table[distance + self.config.max_seq_len - 1]
            of_heads.append(silu(scores) * mask / mask.sum(1, keepdim=True) @ v[:, part])
        mixed = _group_norm(layer.attention_norm, torch.cat(of_heads, dim=1) * gate, groups)
        return x + mlp(layer.mlp, mixed)


def _group_norm(norm: GroupLayerNorm, x: Tensor, groups: list[int]) -> Tensor:
    rows = normalised(x, norm.eps)
    return torch.stack(
        [r * exact(norm.weight[g]) + exact(norm.bias[g]) for r, g in zip(rows, groups, strict=True)]
    )
