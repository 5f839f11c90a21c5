"""A tiny log, its loaders and two rankers, for the tests of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.embeddings.dynamic_collections import (
    DynamicEmbeddingBagCollection,
    DynamicEmbeddingCollection,
)
from torchrec_gr.embeddings.dynamic_config import (
    DynamicEmbeddingBagConfig,
    DynamicEmbeddingConfig,
)
from torchrec_gr.modules.ranking_loss import RankingLoss
from torchrec_gr.sequences.request_batch import NO_TIME, ImpressionBatch, RequestBatch
from torchrec_gr.training.optimizer import (
    DenseOptimizer,
    Schedule,
    ScheduledOptimizer,
    TableOptimizer,
    build_optimizer,
)
from torchrec_gr.training.parameter_groups import ParameterGroup
from torchrec_gr.training.sharding import Sharding, shard

NUM_ITEMS, NUM_USERS, DIM = 37, 11, 8


class ToyLog:
    """Requests of one user, none to four history items and one to three candidates each."""

    def __init__(self, num_requests: int = 40, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)

        def draw(high: int, size: int) -> list[int]:
            return torch.randint(high, (size,), generator=random).tolist()

        self.users = draw(NUM_USERS, num_requests)
        self.histories = [draw(NUM_ITEMS, n) for n in draw(5, num_requests)]
        self.candidates = [draw(NUM_ITEMS, 1 + n) for n in draw(3, num_requests)]
        self.labels = [[float(item % 2) for item in row] for row in self.candidates]
        self.first_row = [sum(len(row) for row in self.candidates[:i]) for i in range(num_requests)]

    def requests(self, places: range) -> RequestBatch:
        """The batch of these requests; without any, one empty request."""
        users = [[self.users[i]] for i in places] or [[]]
        histories = [self.histories[i] for i in places] or [[]]
        candidates = [self.candidates[i] for i in places] or [[]]
        rows = [self.first_row[i] + k for i in places for k in range(len(self.candidates[i]))]
        features = {"user": users, "hist": histories, "cand": candidates}
        return RequestBatch(
            ids=_kjt(features),
            contextual=["user"],
            history=["hist"],
            candidates=["cand"],
            negatives=[],
            num_candidates=torch.tensor([len(row) for row in candidates]),
            history_times=torch.full((sum(map(len, histories)),), NO_TIME),
            candidate_times=torch.zeros(len(rows), dtype=torch.int64),
            num_static=torch.zeros(len(users), dtype=torch.int64),
            user_ids=torch.tensor([row[0] if row else -1 for row in users]),
            source_rows=torch.tensor(rows, dtype=torch.int64),
            labels=torch.tensor([x for i in places for x in self.labels[i]]).reshape(-1, 1),
        )

    def impressions(self, places: range, num_rows: int) -> ImpressionBatch:
        """The batch of these requests' candidates, filled up to `num_rows` by rows of weight 0."""
        pairs = [(i, k) for i in places for k in range(len(self.candidates[i]))]
        filling = num_rows - len(pairs)
        features = {
            "user": [[self.users[i]] for i, _ in pairs] + [[]] * filling,
            "hist": [self.histories[i] for i, _ in pairs] + [[]] * filling,
            "cand": [[self.candidates[i][k]] for i, k in pairs] + [[]] * filling,
        }
        return ImpressionBatch(
            dense_features=torch.tensor([[1.0, float(k)] for _, k in pairs] + [[0, 0]] * filling),
            sparse_features=_kjt(features),
            labels=torch.tensor([self.labels[i][k] for i, k in pairs] + [0.0] * filling),
            weights=torch.tensor([1.0] * len(pairs) + [0.0] * filling),
            user_ids=torch.tensor([self.users[i] for i, _ in pairs] + [-1] * filling),
            source_rows=torch.tensor([self.first_row[i] + k for i, k in pairs] + [-1] * filling),
        )


def _kjt(features: Mapping[str, list[list[int]]]) -> KeyedJaggedTensor:
    rows = [row for column in features.values() for row in column]
    return KeyedJaggedTensor(
        keys=list(features),
        values=torch.tensor([value for row in rows for value in row], dtype=torch.int64),
        lengths=torch.tensor([len(row) for row in rows], dtype=torch.int32),
    )


class ToyLoader:
    """Epochs of the toy log in another order each, cut over the processes; rows uneven."""

    def __init__(
        self,
        log: ToyLog,
        view: str,
        *,
        batch_size: int = 7,
        seed: int | None = 3,
        pad: bool = False,
    ) -> None:
        self.log, self.view, self.batch_size, self.seed, self.pad = log, view, batch_size, seed, pad
        self.epoch = self.step = 0

    @property
    def num_steps(self) -> int:
        return -(-len(self.log.users) // self.batch_size)

    def seek(self, epoch: int, step: int) -> None:
        self.epoch, self.step = epoch, step

    def state_at(self, epoch: int, step: int) -> dict[str, int | str]:
        return {"epoch": epoch, "step": step, "batch_size": self.batch_size}

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        if state["batch_size"] != self.batch_size:
            raise ValueError(f"batch_size was {state['batch_size']}, is {self.batch_size}")
        self.seek(int(state["epoch"]), int(state["step"]))

    def __iter__(self) -> Iterator[Any]:
        order = list(range(len(self.log.users)))
        if self.seed is not None:
            random = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(len(order), generator=random).tolist()
        for step in range(self.step, self.num_steps):
            units = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self._batch(units)

    def _batch(self, units: list[int]) -> Any:
        rank, size = dist.get_rank(), dist.get_world_size()
        parts = [units[len(units) * r // size : len(units) * (r + 1) // size] for r in range(size)]
        if self.view.endswith("requests"):
            return self.log.requests(parts[rank])  # type: ignore[arg-type]
        counts = [sum(len(self.log.candidates[i]) for i in part) for part in parts]
        num_rows = max(counts) if self.pad else max(1, counts[rank])
        return self.log.impressions(parts[rank], num_rows)  # type: ignore[arg-type]


class RequestRanker(nn.Module):
    """Scores a candidate against its request's user and mean history item."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embeddings = EmbeddingCollection(
            tables=[
                EmbeddingConfig(
                    name="item",
                    num_embeddings=NUM_ITEMS,
                    embedding_dim=DIM,
                    feature_names=["hist", "cand"],
                ),
                EmbeddingConfig(
                    name="user", num_embeddings=NUM_USERS, embedding_dim=DIM, feature_names=["user"]
                ),
            ]
        )
        self.body = _RequestBody(dropout)

    def forward(self, batch: RequestBatch) -> Any:
        return self.body(self.embeddings(batch.ids), batch)


class _RequestBody(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * DIM, 16)
        self.head = nn.Linear(16, 1)
        self.dropout = nn.Dropout(dropout)
        self.loss = RankingLoss()

    def forward(self, embeddings: Mapping[str, Any], batch: RequestBatch) -> Any:
        history = _mean_rows(embeddings["hist"].values(), embeddings["hist"].lengths())
        user = _mean_rows(embeddings["user"].values(), embeddings["user"].lengths())
        request = torch.cat([history, user], dim=1).repeat_interleave(batch.num_candidates, dim=0)
        rows = torch.cat([request, embeddings["cand"].values()], dim=1)
        logits = self.head(self.dropout(self.hidden(rows).tanh()))
        return self.loss(logits, batch.labels)


def _mean_rows(values: Tensor, lengths: Tensor) -> Tensor:
    row = torch.arange(len(lengths)).repeat_interleave(lengths.long())
    total = values.new_zeros(len(lengths), values.shape[1]).index_add(0, row, values)
    return total / lengths.clamp(min=1).unsqueeze(1)


class BagRanker(nn.Module):
    """Scores an impression from pooled tables of an EmbeddingBagCollection deep in the model."""

    def __init__(self) -> None:
        super().__init__()
        self.sparse = nn.Module()
        self.sparse.bags = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name="item",
                    num_embeddings=NUM_ITEMS,
                    embedding_dim=DIM,
                    feature_names=["hist", "cand"],
                ),
                EmbeddingBagConfig(
                    name="user", num_embeddings=NUM_USERS, embedding_dim=DIM, feature_names=["user"]
                ),
            ]
        )
        self.body = _BagBody()

    def forward(self, batch: ImpressionBatch) -> Any:
        return self.body(self.sparse.bags(batch.sparse_features), batch)


class _BagBody(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * DIM + 2, 16)
        self.head = nn.Linear(16, 1)
        self.loss = RankingLoss()

    def forward(self, pooled: Any, batch: ImpressionBatch) -> Any:
        parts = [pooled["user"], pooled["hist"], pooled["cand"], batch.dense_features]
        logits = self.head(self.hidden(torch.cat(parts, dim=1)).tanh())
        return self.loss(logits, batch.labels, batch.weights)


class DynamicRequestRanker(RequestRanker):
    """Over dynamic tables."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.embeddings = DynamicEmbeddingCollection(
            [
                DynamicEmbeddingConfig(
                    name=name, embedding_dim=DIM, feature_names=keys, init_std=0.1
                )
                for name, keys in _TABLES.items()
            ]
        )


class DynamicBagRanker(BagRanker):
    """Over dynamic tables."""

    def __init__(self) -> None:
        super().__init__()
        self.sparse.bags = DynamicEmbeddingBagCollection(
            [
                DynamicEmbeddingBagConfig(
                    name=name, embedding_dim=DIM, feature_names=keys, init_std=0.1
                )
                for name, keys in _TABLES.items()
            ]
        )


_TABLES = {"item": ["hist", "cand"], "user": ["user"]}
VIEWS = {
    "requests": RequestRanker,
    "impressions": BagRanker,
    "dynamic_requests": DynamicRequestRanker,
    "dynamic_impressions": DynamicBagRanker,
}


def toy_model(view: str, seed: int = 0, **options: Any) -> nn.Module:
    """A freshly initialised ranker of a view."""
    torch.manual_seed(seed)
    return VIEWS[view](**options)


def sharded(
    model: nn.Module,
    sharding: Sharding | None = None,
    optimizer: str = "rowwise_adagrad",
    schedule: Schedule | None = None,
    max_table_bytes: int | None = None,
    groups: Sequence[ParameterGroup] = (),
) -> tuple[Any, ScheduledOptimizer]:
    """The model, sharded on the CPU, and its optimizer."""
    tables = TableOptimizer(
        name=optimizer,  # type: ignore[arg-type]
        lr=0.1,
        weight_decay=0.01 if optimizer == "adamw" else 0.0,
    )
    model = shard(
        model,
        device=torch.device("cpu"),
        table_optimizer=tables,
        sharding=sharding,
        max_table_bytes=max_table_bytes,
        groups=groups,
    )
    schedule = schedule or Schedule(warmup_steps=2, total_steps=12)
    return model, build_optimizer(model, tables, DenseOptimizer(lr=0.02), schedule, groups)


def whole(entry: Tensor) -> Tensor:
    """The local part of a state dict's entry, all of it where one process holds the table."""
    shards = getattr(entry, "local_shards", None)
    if shards is None:
        return entry.detach()
    return torch.cat([part.tensor.detach() for part in shards()]) if shards() else torch.empty(0)
