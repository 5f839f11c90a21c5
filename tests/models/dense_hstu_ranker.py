"""HSTURanker by its definition: one row at a time, a dense mask written pair by pair, in float64.

No jagged op, no spans, no pieces. The weights are those of the ranker that is handed in, so
gradients reach them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from tests.models.dense_ranker import DenseRanker, Row, exact, layer_norm, linear, mlp
from torchrec_gr.models.hstu_ranker import HSTURanker
from torchrec_gr.models.hstu_ranker_config import HSTURankerConfig
from torchrec_gr.modules.hstu_layer import HSTULayer
from torchrec_gr.modules.ligr_layer import LiGRLayer
from torchrec_gr.modules.relative_bias import RelativeBias, alibi_slopes
from torchrec_gr.modules.sequence_layer import SequenceLayer
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.sequences.request_batch import NO_TIME


class _Token(NamedTuple):
    """Its kind and time, how many tokens stand in front of it, and its vector."""

    kind: str
    time: int
    place: int
    vector: Tensor


class DenseHSTURanker(DenseRanker):
    """By the weights of a ranker of blocks "hstu" or "ligr"."""

    def __init__(self, ranker: HSTURanker, config: HSTURankerConfig, schema: FeatureSchema) -> None:
        self.body, self.tokens, self.config = ranker.body, ranker.body.tokens, config
        super().__init__(schema, ranker.embeddings, self.tokens.user, self.body.heads)

    def of_row(self, row: Row) -> Tensor:
        """[c, tasks] of the c candidates of a row."""
        user = self.user_tokens(row)
        tokens = [_Token("user", NO_TIME, place, vector) for place, vector in enumerate(user)]
        for i in range(row.num_events):
            tokens += self._event(row, i, len(tokens))
        candidates = [
            self._candidate(row, i, sum(_is_seen(k, time) for k in tokens))
            for i, time in enumerate(row.candidate_times)
        ]
        if not candidates:
            return torch.zeros(0, len(self.schema.labels), dtype=torch.float64)
        tokens += candidates
        x = torch.stack([token.vector for token in tokens])
        mask = torch.tensor([[_sees(q, k) for k in tokens] for q in tokens])
        for layer in self.body.trunk.each_layer():
            x = self._layer(layer, x, mask, tokens)
        x = x[-len(candidates) :]
        if self.body.session is not None:
            same = torch.tensor([[q.time == k.time for k in candidates] for q in candidates])
            x = self._layer(self.body.session.layer, x, same, candidates)
        return self.heads(layer_norm(self.body.final_norm, x))

    def _event(self, row: Row, i: int, place: int) -> list[_Token]:
        """One token or two: the item's features are those of a column that candidates have."""
        time, numbers = row.event_times[i], row.event_numbers[i]
        sides: dict[bool, list[Tensor]] = {True: [], False: []}
        for kind in ("categorical", "dense"):
            columns = [f.column for f in self.schema.of("candidate", kind) if not f.is_computed]
            for n, feature in enumerate(self.schema.of("history", kind)):
                if kind == "categorical":
                    value = self.embedding(feature.name, row.ids(feature.name))[i]
                else:
                    value = numbers[n : n + 1]
                sides[feature.column in columns].append(value)
        item = mlp(self.tokens.item, torch.cat(sides[True]))
        action = mlp(self.tokens.action, torch.cat(sides[False]))
        earlier = row.event_times[:i]
        if self.config.tokens == "added":
            return [_Token("event", time, place, self._encoded(item + action, i, time, earlier))]
        return [
            _Token("event", time, place + n, self._encoded(vector, 2 * i + n, time, earlier))
            for n, vector in enumerate((item, action))
        ]

    def _candidate(self, row: Row, i: int, num_visible: int) -> _Token:
        time, twins = row.candidate_times[i], []
        for feature in self.schema.of("history"):
            for twin in self.schema.of("candidate"):
                if twin.column == feature.column and not twin.is_computed:
                    twins.append(self.embedding(twin.name, row.ids(twin.name))[i])
        dense = self.schema.of("candidate", "dense")
        for feature in self.schema.of("history", "dense"):
            for n, twin in enumerate(dense):
                if twin.column == feature.column and not twin.is_computed:
                    twins.append(row.candidate_numbers[i][n : n + 1])
        vector = mlp(self.tokens.item, torch.cat(twins))
        vector = vector + mlp(self.tokens.candidate, self.candidate_features(row, i))
        earlier = [event for event in row.event_times if event < time]
        position = len(earlier)
        if self.config.tokens == "added":
            assert self.tokens.unknown_action is not None
            vector = vector + exact(self.tokens.unknown_action)
        else:
            position = 2 * position
        return _Token(
            "candidate", time, num_visible, self._encoded(vector, position, time, earlier)
        )

    def _encoded(self, vector: Tensor, position: int, time: int, earlier: list[int]) -> Tensor:
        newest = earlier[-1] if earlier else NO_TIME
        gap = 128  # not known
        if NO_TIME not in (time, newest):
            gap = min(math.floor(math.log(max(time - newest, 1)) / 0.301), 127)
        index = {
            "position": position,
            "request_index": len({event for event in earlier if event < time}),
            "time_gap": gap,
        }
        for name in self.config.encodings:
            table = self.tokens.encodings[name]
            vector = vector + exact(table.weight)[index[name]]
        return vector

    def _layer(self, layer: SequenceLayer, x: Tensor, mask: Tensor, tokens: list[_Token]) -> Tensor:
        assert isinstance(layer.bias, RelativeBias)
        bias = self._bias(layer.bias, tokens)
        normed = layer_norm(layer.norm, x)
        if isinstance(layer, HSTULayer):
            q, u, k, v = silu(linear(layer.projection, normed)).chunk(4, dim=1)
        else:
            q, k, v = linear(layer.projection, normed).chunk(3, dim=1)
        width, of_heads = x.shape[1] // layer.num_heads, []
        for h in range(layer.num_heads):
            part = slice(h * width, (h + 1) * width)
            scores = q[:, part] @ k[:, part].T * width**-0.5 + bias[h]
            if isinstance(layer, HSTULayer):
                weights = silu(scores) * mask / self.config.trunk.max_seq_len
            else:
                weights = scores.masked_fill(~mask, -math.inf).softmax(dim=1)
            of_heads.append(weights @ v[:, part])
        mixed = torch.cat(of_heads, dim=1)
        if isinstance(layer, HSTULayer):
            return x + linear(layer.output, layer_norm(layer.attention_norm, mixed) * u)
        assert isinstance(layer, LiGRLayer)
        x = x + linear(layer.output, mixed) * linear(layer.attention_gate, x).sigmoid()
        first, _, second = layer.feed_forward
        fed = linear(second, silu(linear(first, layer_norm(layer.feed_forward_norm, x))))
        return x + fed * linear(layer.feed_forward_gate, x).sigmoid()

    def _bias(self, bias: RelativeBias, tokens: list[_Token]) -> Tensor:
        """[H, N, N], query and key."""
        n, heads = len(tokens), self.config.trunk.num_heads
        total = torch.zeros(heads, n, n, dtype=torch.float64)
        places = torch.tensor([token.place for token in tokens])
        distance = places[None, :] - places[:, None]
        if bias.kind == "alibi":
            slopes = torch.tensor(alibi_slopes(heads), dtype=torch.float64)
            total = total - slopes[:, None, None] * distance.abs()
        if bias.position_table is not None:
            middle = self.config.trunk.max_seq_len - 1
            total = total + exact(bias.position_table)[0][distance + middle]
        if bias.time_table is not None:
            buckets = [[_bucket(q.time - k.time) for k in tokens] for q in tokens]
            total = total + exact(bias.time_table)[0][torch.tensor(buckets)]
        return total


def _sees(q: _Token, k: _Token) -> bool:
    if q is k:
        return True
    if q.kind == "candidate":
        return _is_seen(k, q.time)
    if k.kind == "user":
        return True
    return k.kind == "event" and q.kind == "event" and k.place < q.place


def _is_seen(k: _Token, moment: int) -> bool:
    """Whether a candidate of this moment sees it."""
    return k.kind == "user" or (k.kind == "event" and k.time < moment)


def _bucket(elapsed: int) -> int:
    return min(math.floor(math.log(max(abs(elapsed), 1)) / 0.301), 128)
