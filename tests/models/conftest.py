"""A small schema and batches of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table
from torchrec_gr.sequences.request_batch import NO_TIME, RequestBatch

TABLE_ROWS = {"item": 30, "category": 6, "country": 5, "shop": 8}


@pytest.fixture
def table_rows() -> dict[str, int]:
    return dict(TABLE_ROWS)


@pytest.fixture
def schema() -> FeatureSchema:
    return FeatureSchema(
        name="shop",
        labels=("click",),
        features=(
            Feature("country", "contextual"),
            Feature("age", "contextual", "dense"),
            Feature("history_item", "history", column="item"),
            Feature("history_category", "history", column="category"),
            Feature("item", "candidate"),
            Feature("category", "candidate"),
            Feature("shop", "candidate"),
            Feature("price", "candidate", "dense"),
        ),
        tables=tuple(Table(name) for name in TABLE_ROWS),
        user="user",
        time="time",
        max_history=12,
        target="history_item",
        side_target="history_category",
    )


RequestMaker = Callable[..., RequestBatch]


@pytest.fixture
def make_requests(schema: FeatureSchema) -> RequestMaker:
    """Draws a batch: `make(num_history, num_candidates, seed, negatives)`, one entry a request."""

    def make(
        num_history: Sequence[int],
        num_candidates: Sequence[int],
        *,
        seed: int = 0,
        num_negatives: int = 0,
    ) -> RequestBatch:
        draw = torch.Generator().manual_seed(seed)
        history, candidates = torch.tensor(num_history), torch.tensor(num_candidates)
        ones = torch.ones_like(history)
        per_role = {"contextual": ones, "history": history, "candidate": candidates}
        values, lengths = {}, {}
        for role, counts in per_role.items():
            for feature in schema.of(role):
                rows = TABLE_ROWS[feature.table]
                values[feature.name] = torch.randint(rows, (int(counts.sum()),), generator=draw)
                lengths[feature.name] = counts
        first = torch.zeros_like(history)
        if num_negatives:
            negatives = torch.randint(1, TABLE_ROWS["item"], (num_negatives,), generator=draw)
            values["negative_history_item"] = negatives
            values["negative_history_category"] = torch.arange(1, TABLE_ROWS["category"])
            for key in ("negative_history_item", "negative_history_category"):
                lengths[key] = first.index_fill(0, torch.tensor([0]), len(values[key]))
        num_scored = int(candidates.sum())
        return RequestBatch(
            ids=KeyedJaggedTensor(
                keys=list(values),
                values=torch.cat(list(values.values())),
                lengths=torch.cat(list(lengths.values())),
                stride=len(history),
            ),
            contextual=["country"],
            history=["history_item", "history_category"],
            candidates=["item", "category", "shop"],
            negatives=[key for key in values if key.startswith("negative")],
            num_candidates=candidates,
            history_times=torch.full((int(history.sum()),), NO_TIME),
            candidate_times=torch.zeros(num_scored, dtype=torch.int64),
            num_static=first,
            user_ids=torch.arange(len(history)),
            source_rows=torch.arange(num_scored),
            dense_contextual=torch.randn(len(history), 1, generator=draw),
            dense_candidates=torch.randn(num_scored, 1, generator=draw),
            labels=torch.randint(2, (num_scored, 1), generator=draw).float(),
        )

    return make
