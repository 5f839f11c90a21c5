"""The toy ranker over dynamic tables, and a log whose ids never end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.training.toy import DIM, RequestRanker, ToyLoader, ToyLog, sharded
from torchrec_gr.embeddings.dynamic_collections import DynamicEmbeddingCollection
from torchrec_gr.embeddings.dynamic_config import DynamicEmbeddingConfig
from torchrec_gr.embeddings.dynamic_table import dynamic_tables
from torchrec_gr.embeddings.table_rows import TableRows
from torchrec_gr.training.optimizer import (
    Schedule,
    ScheduledOptimizer,
)
from torchrec_gr.training.trainer import Trainer

_EXTREMES = [-(2**63), 2**63 - 1, -1, 0]


class EndlessLog(ToyLog):
    """The toy log with other ids every ten requests, of all 64 bits."""

    def __init__(self) -> None:
        super().__init__()
        days = [number // 10 for number in range(len(self.users))]
        self.users = [_raw_id(user, day) for user, day in zip(self.users, days, strict=True)]
        for rows in (self.histories, self.candidates):
            rows[:] = [[_raw_id(i, day) for i in row] for row, day in zip(rows, days, strict=True)]


def _raw_id(value: int, day: int) -> int:
    if value < len(_EXTREMES):
        return _EXTREMES[value]
    return ((value + 100 * day) * 0x9E3779B97F4A7C15) % 2**64 - 2**63


class DynamicRanker(RequestRanker):
    """Items beyond the table's budget are evicted; users wait for their second sighting."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = DynamicEmbeddingCollection(
            [
                DynamicEmbeddingConfig(
                    name="item", embedding_dim=DIM, feature_names=["hist", "cand"], max_rows=72
                ),
                DynamicEmbeddingConfig(
                    name="user", embedding_dim=DIM, feature_names=["user"], admit_after=2
                ),
            ]
        )


def dynamic_model(
    seed: int = 0, optimizer: str = "rowwise_adagrad"
) -> tuple[Any, ScheduledOptimizer]:
    """A freshly initialised, sharded ranker and its optimizer."""
    torch.manual_seed(seed)
    return sharded(DynamicRanker(), None, optimizer, Schedule())


def dynamic_trainer(
    run_dir: Path, seed: int = 0, optimizer: str = "rowwise_adagrad", **options: Any
) -> Trainer:
    """Trains it; an epoch is of six steps."""
    loader = ToyLoader(EndlessLog(), "requests")
    return Trainer(*dynamic_model(seed, optimizer), loader, run_dir=run_dir, **options)


def contents(model: Any, optimizer: ScheduledOptimizer) -> dict[str, Tensor]:
    """All that training has made, over all processes; rows in the order of their ids."""
    found = {}
    tables = dynamic_tables(model)
    for name, table in tables.items():
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, table.rows())
        rows = TableRows.concatenated(parts)
        rows = rows.kept(rows.ids.argsort(), rows.waiting_ids.argsort())
        assert (rows.ids.diff() > 0).all()  # each on one process
        found |= {f"{name}.{field}": value for field, value in vars(rows).items()}
        found |= {f"{name}.step": table.step, f"{name}.seed": table.seed}
    for name, value in model.state_dict().items():
        if not name.startswith(tuple(f"{table}." for table in tables)):
            found[name] = value
    for name, state in optimizer.state_dict()["state"].items():
        found |= {f"{name} {key}": value for key, value in state.items()}
    return {name: value.detach().clone() for name, value in found.items()}
