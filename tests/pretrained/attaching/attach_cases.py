"""An artefact, CTR models to attach it to, and batches of impressions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torchrec.datasets.utils import Batch
from torchrec.models.deepfm import SimpleDeepFMNN
from torchrec.models.dlrm import DLRM, DLRM_DCN, DLRM_Projection, DLRMTrain
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.embeddings.dynamic_collections import DynamicEmbeddingCollection
from torchrec_gr.embeddings.dynamic_config import DynamicEmbeddingConfig
from torchrec_gr.embeddings.table_rows import TableRows
from torchrec_gr.models.gpsd import GPSDConfig, GPSDPretrainer
from torchrec_gr.pretrained import ModelCard, Pretrained, load_pretrained, save_pretrained
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table
from torchrec_gr.schema.vocabulary import Vocabulary

DIM, MAX_HISTORY, NUM_ITEMS, NUM_CATEGORIES = 16, 6, 30, 6
CONFIG = {"dim": DIM, "num_layers": 2, "num_heads": 2, "init_std": 0.3}
ROWS = {"item": NUM_ITEMS, "category": NUM_CATEGORIES}
KEYS = {"features": {"item": "past_item", "category": "past_category"}}
KEYS |= {"candidate": {"item": "item_id", "category": "category_id"}}


def schema() -> FeatureSchema:
    """Of the log that the artefact was trained on."""
    return FeatureSchema(
        name="shop",
        labels=("click",),
        features=(
            Feature("history_item", "history", column="item"),
            Feature("history_category", "history", column="category"),
            Feature("item", "candidate"),
            Feature("category", "candidate"),
        ),
        tables=(Table("item"), Table("category")),
        user="user",
        time="time",
        max_history=MAX_HISTORY,
        target="history_item",
        side_target="history_category",
    )


def vocabularies() -> dict[str, Vocabulary]:
    """Items are 1000, 1010, ...; categories "c0", "c1", ..."""
    items = pa.array(range(1000, 1000 + 10 * (NUM_ITEMS - 1), 10), pa.int64())
    categories = pa.array([f"c{i}" for i in range(NUM_CATEGORIES - 1)], pa.large_string())
    return {
        "item": Vocabulary("item", items, np.arange(NUM_ITEMS)),
        "category": Vocabulary("category", categories, np.arange(NUM_CATEGORIES)),
    }


def save_artefact(folder: Path) -> Pretrained:
    """A pretrainer of random weights as an artefact."""
    torch.manual_seed(5)
    save_pretrained(
        folder,
        GPSDPretrainer(GPSDConfig(**CONFIG), schema(), ROWS),  # type: ignore[arg-type]
        module="gpsd",
        config=CONFIG,
        schema=schema(),
        vocabularies=vocabularies(),
        card=ModelCard(trained_on="nothing"),
    )
    return load_pretrained(folder)


def save_dynamic_artefact(folder: Path) -> tuple[Pretrained, Pretrained]:
    """One of dynamic tables whose ids are 0, 1, ..., and one of the same rows in static tables."""
    static = save_artefact(folder / "static")
    model: Any = GPSDPretrainer(GPSDConfig(**CONFIG), schema(), ROWS)  # type: ignore[arg-type]
    model.body.load_state_dict(
        {name.removeprefix("body."): static.dense(name) for name in static.dense_shapes()}
    )
    model.embeddings = DynamicEmbeddingCollection(
        [
            DynamicEmbeddingConfig(name=table, embedding_dim=DIM, feature_names=[table])
            for table in ROWS
        ]
    )
    for table in model.embeddings.tables():
        weight = torch.cat([piece.weight for piece in static.tables[table.config.name].pieces()])
        ids = torch.arange(len(weight))
        seen = torch.ones(len(weight), 2, dtype=torch.int32)
        empty = vars(TableRows.empty(DIM))
        table.load_rows(TableRows(**{**empty, "ids": ids, "seen": seen, "weight": weight}))
    save_pretrained(
        folder / "dynamic",
        model,
        module="gpsd",
        config=CONFIG,
        schema=schema(),
        vocabularies={},
        card=ModelCard(trained_on="nothing"),
    )
    return load_pretrained(folder / "dynamic"), static


NUM_USERS = 9


def bags(dim: int = 8) -> EmbeddingBagCollection:
    """The tables of the CTR models: users, items (also pooled over histories), categories."""
    keys = {
        "user": (NUM_USERS, ["user_id"]),
        "item": (NUM_ITEMS, ["item_id", "past_item"]),
        "category": (NUM_CATEGORIES, ["category_id"]),
    }
    return EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=table, embedding_dim=dim, num_embeddings=rows, feature_names=names
            )
            for table, (rows, names) in keys.items()
        ]
    )


class Net(nn.Module):
    """A CTR model written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.sparse = bags()
        self.hidden = nn.Linear(4 * 8 + 3, 12)
        self.head = nn.Linear(12, 1)
        self.vector: Tensor | None = None

    def forward(self, batch: Batch) -> Tensor:
        pooled = self.sparse(batch.sparse_features)
        parts = [pooled[key] for key in ("user_id", "item_id", "past_item", "category_id")]
        hidden = self.hidden(torch.cat([*parts, batch.dense_features], dim=1)).relu()
        return self.head(hidden)


NUM_DENSE = 3


def build(name: str, seed: int = 0) -> nn.Module:
    """A CTR model, in evaluation mode."""
    torch.manual_seed(seed)
    models: dict[str, Any] = {
        "dlrm": lambda: DLRM(bags(), NUM_DENSE, [10, 8], [12, 1]),
        "dcn": lambda: DLRM_DCN(bags(), NUM_DENSE, [10, 8], [12, 1], 2, 4),
        "projection": lambda: DLRM_Projection(
            bags(), NUM_DENSE, [10, 8], [12, 1], [16, 16], [16, 16]
        ),
        "deepfm": lambda: SimpleDeepFMNN(NUM_DENSE, bags(), 10, 5),
        "train": lambda: DLRMTrain(DLRM(bags(), NUM_DENSE, [10, 8], [12, 1])),
        "net": Net,
    }
    return models[name]()


def scores(name: str, model: nn.Module, batch: Batch) -> Tensor:
    """Logits."""
    if name == "train":
        _, (_, logits, _) = model(batch)
        return logits
    if name == "net":
        return model(batch)
    return model(batch.dense_features, batch.sparse_features)


def loss(name: str, model: nn.Module, batch: Batch) -> Tensor:
    """To call backward on."""
    if name == "train":
        return model(batch)[0]
    return scores(name, model, batch).square().sum()


def impressions(
    histories: Sequence[Sequence[int]],
    candidates: Sequence[int | None],
    seed: int = 0,
    first_row: int = 0,
) -> Batch:
    """One row each of a history of items and a candidate, None: a filling row without one.

    The rest is drawn for each row by itself; the rows may be those from `first_row` on of a batch.
    """
    rows = [1000 * seed + first_row + row for row in range(len(histories))]
    drawn = [torch.randn(NUM_DENSE + 2, generator=torch.Generator().manual_seed(r)) for r in rows]
    drawn_values = torch.stack(drawn)
    ids: dict[str, list[list[int]]] = {
        "user_id": [[int(1000 * value) % NUM_USERS] for value in drawn_values[:, -1].abs()],
        "past_item": [list(row) for row in histories],
        "past_category": [[item % NUM_CATEGORIES for item in row] for row in histories],
        "item_id": [[] if item is None else [item] for item in candidates],
        "category_id": [[] if item is None else [item % NUM_CATEGORIES] for item in candidates],
    }
    return Batch(
        dense_features=drawn_values[:, :NUM_DENSE].contiguous(),
        sparse_features=KeyedJaggedTensor(
            keys=list(ids),
            values=torch.tensor([v for key in ids.values() for row in key for v in row]).long(),
            lengths=torch.tensor([len(row) for key in ids.values() for row in key]).int(),
        ),
        labels=(drawn_values[:, -2] > 0).float(),
    )


SHAPES: dict[str, tuple[list[list[int]], list[int | None]]] = {
    "mixed": (
        [[1, 2, 3], [], [1, 2, 3], [4, 4], [], [1, 2, 3], list(range(9)), [4]],
        [5, 6, 7, 8, 6, 5, 1, 0],
    ),
    "filled": ([[3, 2], [], [3, 2], []], [9, 3, 1, None]),
    "one": ([[7, 8]], [9]),
    "one empty": ([[]], [9]),
    "all equal": ([[1, 2]] * 5, [3] * 5),
    "no history": ([[]] * 4, [1, 2, 3, 1]),
    "nothing": ([[]] * 2, [None, None]),
    "all different": ([[i, i + 1] for i in range(6)], [1, 2, 3, 4, 5, 6]),
}
"""Histories and candidates of awkward batches."""
