"""What an artefact is saved with in the tests: a schema, vocabularies and a card for toy models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from tests.training.toy import NUM_ITEMS, NUM_USERS
from torchrec_gr.pretrained import ModelCard, Pretrained, save_pretrained
from torchrec_gr.schema import Feature, FeatureSchema, Table, Vocabulary

SCHEMA = FeatureSchema(
    name="toy",
    labels=("click",),
    features=(
        Feature("user", "contextual"),
        Feature("hist", "history", table="item", column="item"),
        Feature("cand", "candidate", table="item", column="item"),
    ),
    tables=(Table("user"), Table("item", min_count=2)),
    user="user",
    time="time",
    target="hist",
)
CARD = ModelCard(
    trained_on="the toy log",
    data={"requests": 40_000, "splits": ["train", "test"], "label": "click | like"},
    metrics={"auc": 0.7123456789, "ne": 0.91},
    settings={"epochs": 3, "tables": {"lr": 0.05}},
    license="Apache-2.0",
    notes="Not for use.",
)
CONFIG = {"dim": 8, "rates": [0.1, 0.2], "name": "tiny", "bias": None}


def vocabularies() -> dict[str, Vocabulary]:
    """Integer ids of items, strings of users; one more of a table that no model has."""
    items = pa.array(np.arange(1, NUM_ITEMS)[::-1] * 10**12)
    users = pa.array([f"ü{n}" for n in range(1, NUM_USERS)], pa.large_string())
    return {
        "item": Vocabulary("item", items, np.arange(NUM_ITEMS) + 3),
        "user": Vocabulary("user", users, np.arange(NUM_USERS)[::-1].copy()),
        "city": Vocabulary("city", pa.array([5]), np.array([0, 1])),
    }


def save(folder: Path, model: nn.Module, **changes: Any) -> Path:
    """Saves a toy model; `changes` are other arguments than the usual ones."""
    usual: dict[str, Any] = {
        "module": "toy",
        "config": CONFIG,
        "schema": SCHEMA,
        "vocabularies": vocabularies(),
        "card": CARD,
    }
    return save_pretrained(folder, model, **(usual | changes))


def contents(pretrained: Pretrained) -> dict[str, Any]:
    """All that an artefact holds, whole; tables by "table field", the ids as a list."""
    found: dict[str, Any] = {name: pretrained.dense(name) for name in pretrained.dense_shapes()}
    for name in pretrained.dense_shapes():
        for key, value in (pretrained.dense_state(name) or {}).items():
            found[f"{name} {key}"] = value
    for name, table in pretrained.tables.items():
        pieces = list(table.pieces())
        firsts = [piece.first_row for piece in pieces]
        assert firsts == [sum(len(p.weight) for p in pieces[:i]) for i in range(len(pieces))]
        found[f"{name} ids"] = table.raw_ids().to_pylist()
        found[f"{name} counts"] = torch.tensor(table.counts())
        for field in ("weight", "optimizer", "seen"):
            values = [getattr(piece, field) for piece in pieces]
            if values and values[0] is not None:
                found[f"{name} {field}"] = torch.cat(values)
    return found


def by_id(found: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the rows of dynamic tables in the order of their ids."""
    sorted_by_id = dict(found)
    for name in [key.removesuffix(" ids") for key in found if key.endswith(" ids")]:
        if f"{name} seen" in found:
            order = torch.tensor(found[f"{name} ids"]).argsort()
            sorted_by_id[f"{name} ids"] = sorted(found[f"{name} ids"])
            for field in ("counts", "weight", "optimizer", "seen"):
                if isinstance(values := found.get(f"{name} {field}"), Tensor):
                    sorted_by_id[f"{name} {field}"] = values[order]
    return sorted_by_id


def require_equal(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """The same entries, bit for bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        same = (
            torch.equal(found[name], value) if isinstance(value, Tensor) else found[name] == value
        )
        assert same, name
