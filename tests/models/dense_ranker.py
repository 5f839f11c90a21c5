"""What the definitions of rankers share: their inputs, one row at a time, in float64.

The weights are those of the ranker that is handed in, so gradients reach them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from torchrec.modules.embedding_modules import EmbeddingCollection

from torchrec_gr.modules.feature_tokens import UserTokens
from torchrec_gr.modules.task_heads import TaskHeads
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.sequences.request_batch import NO_TIME, RequestBatch


class DenseRanker:
    """Reads rows, and gives logits of what becomes of candidates."""

    def __init__(
        self,
        schema: FeatureSchema,
        tables: EmbeddingCollection,
        user: UserTokens,
        task_heads: TaskHeads,
    ) -> None:
        self.schema, self.tables, self.user, self.task_heads = schema, tables, user, task_heads

    def __call__(self, batch: RequestBatch) -> Tensor:
        """The logits of a batch, [C, tasks] float64."""
        return torch.cat([self.of_row(Row(batch, u)) for u in range(batch.num_requests)])

    def of_row(self, row: Row) -> Tensor:
        """[c, tasks] of the c candidates of a row."""
        raise NotImplementedError

    def user_tokens(self, row: Row) -> list[Tensor]:
        user, tokens = self.user, []
        for i, name in enumerate(self.names("contextual", of_request=False)):
            embedding = self.embedding(name, row.ids(name))[0]
            tokens.append(embedding @ exact(user.of_ids[i]) + exact(user.bias[i]))
        numbers = self.names("contextual", "dense", of_request=False)
        for i, name in enumerate(numbers):
            bias = user.bias[len(tokens)]
            tokens.append(row.number(self, name) * exact(user.of_numbers[i]) + exact(bias))
        return tokens

    def candidate_features(self, row: Row, i: int) -> Tensor:
        """All that a candidate has, side by side: its own, and its request's."""
        parts = self.embeddings("candidate", row, i)
        for name in self.names("contextual", of_request=True):
            given = self.embedding(name, row.ids(name))
            parts.append(given[0] if name in row.batch.contextual else given[i])
        numbers = row.candidate_numbers[i]
        if len(numbers) == len(self.schema.of("candidate", "dense")):  # a request's stand apart
            of_request = self.names("contextual", "dense", of_request=True)
            more = torch.tensor([float(row.number(self, name)) for name in of_request])
            numbers = torch.cat([numbers, more])
        return torch.cat([*parts, numbers])

    def heads(self, x: Tensor) -> Tensor:
        heads = self.task_heads
        towers = silu(linear(heads.hidden, x)).chunk(len(self.schema.labels), dim=1)
        logits = [
            tower @ exact(heads.weight[task]) + exact(heads.bias[task])
            for task, tower in enumerate(towers)
        ]
        return torch.stack(logits, dim=1)

    def embeddings(self, role: str, row: Row, i: int) -> list[Tensor]:
        names = [f.name for f in self.schema.of(role)]
        return [self.embedding(name, row.ids(name))[i] for name in names]

    def embedding(self, name: str, ids: Tensor) -> Tensor:
        table = self.schema.feature(name).table
        return exact(self.tables.embeddings[table].weight)[ids]

    def names(self, role: str, kind: str = "categorical", *, of_request: bool) -> list[str]:
        names = [f.name for f in self.schema.of(role, kind)]
        return [name for name in names if (name in self.schema.request_features) == of_request]


class Row:
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

    def number(self, dense: DenseRanker, name: str) -> Tensor:
        """A number of the request; those of a window are only the user's."""
        assert self.batch.dense_contextual is not None
        names = [f.name for f in dense.schema.of("contextual", "dense")]
        if self.batch.dense_contextual.shape[1] < len(names):
            names = [n for n in names if n not in dense.schema.request_features]
        return self.batch.dense_contextual[self.u, names.index(name)].double()


def exact(x: Tensor) -> Tensor:
    return x.double()


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ exact(layer.weight).T + exact(layer.bias)


def mlp(mlp: nn.Sequential, x: Tensor) -> Tensor:
    first, _, second = mlp
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    return linear(second, silu(linear(first, x)))


def normalised(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + eps).sqrt()


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    x = normalised(x, norm.eps)
    return x * exact(norm.weight) + exact(norm.bias) if norm.elementwise_affine else x
