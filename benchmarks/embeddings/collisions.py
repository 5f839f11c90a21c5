"""How many ids of a vocabulary a multi-hash table cannot tell apart."""

from __future__ import annotations

from typing import NamedTuple

import torch

from benchmarks.embeddings.traffic import raw_ids
from benchmarks.measure import Row, figure
from torchrec_gr.embeddings.collision_statistics import collision_statistics
from torchrec_gr.embeddings.multi_hash_config import MultiHashEmbeddingConfig


class Plan(NamedTuple):
    """A vocabulary and the table that it is to share."""

    num_ids: int
    num_embeddings: int
    num_hashes: int


FULL = Plan(4_000_000, 20_000, 2)
QUICK = Plan(100_000, 1_000, 2)


def measure(plan: Plan) -> list[Row]:
    """Prints the statistics."""
    config = MultiHashEmbeddingConfig(
        name="table",
        embedding_dim=plan.num_hashes,
        num_embeddings=plan.num_embeddings,
        num_hashes=plan.num_hashes,
        feature_names=["feature"],
    )
    statistics = collision_statistics(raw_ids(torch.arange(plan.num_ids)), config)
    print(f"\na multi-hash table of {plan.num_hashes} x {plan.num_embeddings:,} rows: {statistics}")
    case = plan._asdict()
    return [
        figure("multi_hash_colliding_ids", case, statistics.num_colliding_ids),
        figure("multi_hash_colliding_ids_expected", case, statistics.expected_colliding_ids),
    ]
