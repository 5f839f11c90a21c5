"""MTGR by its definition: one row at a time, a dense mask written pair by pair, in float64.

No jagged op, no spans, no pieces: what MTGRRanker is held against. The weights are those of the
ranker that is handed in, so gradients reach them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from torchrec_gr.models.mtgr import MTGRRanker
from torchrec_gr.models.mtgr_config import MTGRConfig
from torchrec_gr.modules.group_layer_norm import GroupLayerNorm
from torchrec_gr.modules.mtgr_layer import MTGRLayer
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.sequences.request_batch import NO_TIME, RequestBatch


class _Token(NamedTuple):
    kind: str
    place: int
    time: int = 0


class DenseMTGR:
    """The logits of a batch, [C, tasks] float64, by the weights of a ranker."""

    def __init__(self, ranker: MTGRRanker, config: MTGRConfig, schema: FeatureSchema) -> None:
        self.ranker, self.config, self.schema = ranker, config, schema
        self.trunk, self.reader = ranker.body.trunk, ranker.body.reader

    def __call__(self, batch: RequestBatch) -> Tensor:
        return torch.cat([self._row(_Row(batch, u)) for u in range(batch.num_requests)])

    def _row(self, row: _Row) -> Tensor:
        user = self._user_tokens(row)
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
        x = _normalised(x[num_context:], self.trunk.final_norm.eps)
        x = x * _exact(self.trunk.final_norm.weight) + _exact(self.trunk.final_norm.bias)
        return self._heads(x)

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

    def _user_tokens(self, row: _Row) -> list[Tensor]:
        user, tokens = self.trunk.user, []
        for i, name in enumerate(self._names("contextual", of_request=False)):
            embedding = self._embedding(name, row.ids(name))[0]
            tokens.append(embedding @ _exact(user.of_ids[i]) + _exact(user.bias[i]))
        numbers = self._names("contextual", "dense", of_request=False)
        for i, name in enumerate(numbers):
            bias = user.bias[len(tokens)]
            tokens.append(row.number(self, name) * _exact(user.of_numbers[i]) + _exact(bias))
        return tokens

    def _event_tokens(self, row: _Row) -> list[Tensor]:
        return [
            _mlp(self.trunk.event, torch.cat([*self._embeddings("history", row, i), numbers]))
            for i, numbers in enumerate(row.event_numbers)
        ]

    def _candidate_tokens(self, row: _Row, num_seen: Tensor) -> list[Tensor]:
        tokens = []
        for i in range(row.num_candidates):
            parts = self._embeddings("candidate", row, i)
            for name in self._names("contextual", of_request=True):
                given = self._embedding(name, row.ids(name))
                parts.append(given[0] if name in row.batch.contextual else given[i])
            numbers = row.candidate_numbers[i]
            if len(numbers) == len(self.schema.of("candidate", "dense")):  # a request's stand apart
                of_request = self._names("contextual", "dense", of_request=True)
                more = torch.tensor([float(row.number(self, name)) for name in of_request])
                numbers = torch.cat([numbers, more])
            seen = num_seen[i : i + 1].double().log1p()
            token = _mlp(self.trunk.candidate, torch.cat([*parts, numbers, seen]))
            if self.config.flow == "dfgr":
                token = token + _mlp(self.trunk.event, self._as_event(row, i))
            tokens.append(token)
        return tokens

    def _as_event(self, row: _Row, i: int) -> Tensor:
        """What an event has, of the candidate's own where it has the same column."""
        parts, num_missing = [], 0
        for feature in self.schema.of("history"):
            twins = [f.name for f in self.schema.of("candidate") if f.column == feature.column]
            if twins:
                parts.append(self._embedding(twins[0], row.ids(twins[0]))[i])
            else:
                assert self.reader.placeholders is not None
                parts.append(_exact(self.reader.placeholders[num_missing]))
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
        projected = silu(_linear(layer.projection, _group_norm(layer.norm, x, groups)))
        q, gate, k, v = projected.chunk(4, dim=1)
        width, of_heads = layer.dim // layer.num_heads, []
        for h in range(layer.num_heads):
            part = slice(h * width, (h + 1) * width)
            scores = q[:, part] @ k[:, part].T * width**-0.5
            if layer.position_table is not None:
                distance = places[None, :] - places[:, None]
                table = _exact(layer.position_table[h])
                scores = scores + table[distance + self.config.max_seq_len - 1]
            of_heads.append(silu(scores) * mask / mask.sum(1, keepdim=True) @ v[:, part])
        mixed = _group_norm(layer.attention_norm, torch.cat(of_heads, dim=1) * gate, groups)
        return x + _mlp(layer.mlp, mixed)

    def _heads(self, x: Tensor) -> Tensor:
        heads = self.trunk.heads
        towers = silu(_linear(heads.hidden, x)).chunk(len(self.schema.labels), dim=1)
        logits = [
            tower @ _exact(heads.weight[task]) + _exact(heads.bias[task])
            for task, tower in enumerate(towers)
        ]
        return torch.stack(logits, dim=1)

    def _embeddings(self, role: str, row: _Row, i: int) -> list[Tensor]:
        names = [f.name for f in self.schema.of(role)]
        return [self._embedding(name, row.ids(name))[i] for name in names]

    def _embedding(self, name: str, ids: Tensor) -> Tensor:
        table = self.schema.feature(name).table
        return _exact(self.ranker.embeddings.embeddings[table].weight)[ids]

    def _names(self, role: str, kind: str = "categorical", *, of_request: bool) -> list[str]:
        names = [f.name for f in self.schema.of(role, kind)]
        return [name for name in names if (name in self.schema.request_features) == of_request]


class _Row:
    """One request of a batch."""

    def __init__(self, batch: RequestBatch, u: int) -> None:
        self.batch, self.u = batch, u
        num_events, num_candidates = batch.num_history().tolist(), batch.num_candidates.tolist()
        self.num_events, self.num_candidates = num_events[u], num_candidates[u]
        assert batch.dense_history is not None
        assert batch.dense_candidates is not None
        self.event_times = batch.history_times.split(num_events)[u].tolist()
        self.candidate_times = batch.candidate_times.split(num_candidates)[u].tolist()
        self.event_numbers = batch.dense_history.double().split(num_events)[u]
        self.candidate_numbers = batch.dense_candidates.double().split(num_candidates)[u]
        untimed = sum(time == NO_TIME for time in self.event_times)
        self.num_static = max(int(batch.num_static[u]), untimed)

    def ids(self, name: str) -> Tensor:
        of_feature = self.batch.ids[name]
        return of_feature.values().split(of_feature.lengths().tolist())[self.u]

    def number(self, dense: DenseMTGR, name: str) -> Tensor:
        """A number of the request; those of a window are only the user's."""
        assert self.batch.dense_contextual is not None
        names = [f.name for f in dense.schema.of("contextual", "dense")]
        if self.batch.dense_contextual.shape[1] < len(names):
            names = [n for n in names if n not in dense.schema.request_features]
        return self.batch.dense_contextual[self.u, names.index(name)].double()


def _exact(x: Tensor) -> Tensor:
    return x.double()


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ _exact(layer.weight).T + _exact(layer.bias)


def _mlp(mlp: nn.Sequential, x: Tensor) -> Tensor:
    first, _, second = mlp
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    return _linear(second, silu(_linear(first, x)))


def _group_norm(norm: GroupLayerNorm, x: Tensor, groups: list[int]) -> Tensor:
    rows = _normalised(x, norm.eps)
    return torch.stack(
        [
            r * _exact(norm.weight[g]) + _exact(norm.bias[g])
            for r, g in zip(rows, groups, strict=True)
        ]
    )


def _normalised(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + eps).sqrt()
