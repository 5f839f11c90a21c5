"""How many ids of a vocabulary a multi-hash table cannot tell apart."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from torchrec_gr.embeddings.multi_hash_config import MultiHashEmbeddingConfig


@dataclasses.dataclass(frozen=True)
class SubTableUse:
    """How a vocabulary fills one sub-table.

    Args:
        name: of the sub-table.
        ids_per_used_row: how many ids share a row, on average over the rows that have any.
        share_of_used_rows: of all its rows, those that have an id.
    """

    name: str
    ids_per_used_row: float
    share_of_used_rows: float


@dataclasses.dataclass(frozen=True)
class CollisionStatistics:
    """What `collision_statistics` counts; as a string, a table.

    Args:
        num_ids: different ids of the vocabulary.
        num_colliding_ids: those that share all sub-rows, hence the embedding, with another id.
        num_colliding_groups: into how many embeddings these fall.
        expected_colliding_ids: of hash functions that draw every row at random.
        sub_tables: by hash function.
        expected_sub_table: of such a function.
    """

    num_ids: int
    num_colliding_ids: int
    num_colliding_groups: int
    expected_colliding_ids: float
    sub_tables: tuple[SubTableUse, ...]
    expected_sub_table: SubTableUse

    def __str__(self) -> str:
        rows = [*self.sub_tables, self.expected_sub_table]
        width = max(len(row.name) for row in rows)
        lines = [
            f"{self.num_ids:,} ids, of which {self.num_colliding_ids:,} share all sub-rows with "
            f"another, in {self.num_colliding_groups:,} groups "
            f"(expected {self.expected_colliding_ids:,.3g} ids)",
            f"{'sub-table':<{width}}  ids a used row  used rows",
            *(
                f"{row.name:<{width}}  {row.ids_per_used_row:14.4f}  {row.share_of_used_rows:9.4%}"
                for row in rows
            ),
        ]
        return "\n".join(lines)


def collision_statistics(ids: Tensor, config: MultiHashEmbeddingConfig) -> CollisionStatistics:
    """Counts the collisions of a vocabulary in a multi-hash table.

    It sorts the ids, and their rows in each sub-table, and holds about 60 bytes an id beside them.

    Args:
        ids: raw ids, int64 of any shape; repeated ones count once.
        config: of the table.

    Raises:
        ValueError: no ids.
    """
    ids = ids.unique()
    if not ids.numel():
        raise ValueError("ids is empty: pass the vocabulary whose collisions are to be counted")
    colliding, groups = ids, torch.zeros_like(ids)
    sub_tables = []
    for function in range(config.num_hashes):
        sub_tables.append(_use(config, function, ids))
        colliding, groups = _still_together(config, function, colliding, groups)
    return CollisionStatistics(
        num_ids=ids.numel(),
        num_colliding_ids=colliding.numel(),
        num_colliding_groups=groups.unique().numel(),
        expected_colliding_ids=_expected_colliding(ids.numel(), config),
        sub_tables=tuple(sub_tables),
        expected_sub_table=_expected_use(ids.numel(), config),
    )


def _use(config: MultiHashEmbeddingConfig, function: int, ids: Tensor) -> SubTableUse:
    rows = config.hash(ids, function).sort().values
    num_used = 1 + int((rows[1:] != rows[:-1]).sum())
    return SubTableUse(
        name=config.sub_table(function),
        ids_per_used_row=ids.numel() / num_used,
        share_of_used_rows=num_used / config.num_embeddings,
    )


def _still_together(
    config: MultiHashEmbeddingConfig, function: int, ids: Tensor, groups: Tensor
) -> tuple[Tensor, Tensor]:
    """The ids that share their group and the row of one more function with another; their groups.

    Groups are numbers below 2**32, as are rows; those that are returned are numbered anew.
    """
    pairs = groups * config.num_embeddings + config.hash(ids, function)
    pairs, order = pairs.sort()
    first = torch.ones_like(pairs, dtype=torch.bool)
    torch.ne(pairs[1:], pairs[:-1], out=first[1:])
    alone = first.clone()
    alone[:-1] &= first[1:]
    kept = ~alone
    return ids[order[kept]], first.cumsum(0)[kept] - 1


def _expected_colliding(num_ids: int, config: MultiHashEmbeddingConfig) -> float:
    # Chance that a certain other id, and that any of them, has the same rows.
    one = config.num_embeddings**-config.num_hashes
    if one == 1:
        return float(num_ids if num_ids > 1 else 0)
    return -num_ids * math.expm1((num_ids - 1) * math.log1p(-one))


def _expected_use(num_ids: int, config: MultiHashEmbeddingConfig) -> SubTableUse:
    if config.num_embeddings == 1:
        used = 1.0
    else:
        used = -math.expm1(num_ids * math.log1p(-1 / config.num_embeddings))
    return SubTableUse(
        name="expected",
        ids_per_used_row=num_ids / (used * config.num_embeddings),
        share_of_used_rows=used,
    )
