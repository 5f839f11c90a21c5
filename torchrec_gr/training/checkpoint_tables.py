"""The rows of dynamic tables in checkpoints: any number of them, on any number of processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from torchrec_gr.embeddings.dynamic_table import DynamicTable
from torchrec_gr.embeddings.sharded_rows import sharded_rows
from torchrec_gr.embeddings.table_rows import TableRows
from torchrec_gr.training.checkpoint_reader import CheckpointReader
from torchrec_gr.training.together import on_all

_ROWS = ("ids", "seen", "weight", "optimizer")
_WAITING = ("waiting_ids", "waiting_seen")
_REMOVED = "removed_ids"
_LONGEST = 65_536
"""Rows that a process reads at a time: no more of a checkpoint is ever in memory beside a table."""


def row_entries(tables: Mapping[str, object], *, is_increment: bool = False) -> set[str]:
    """The names of all entries that have a row for an id, in a whole checkpoint or an increment."""
    fields = _ROWS + _WAITING + ((_REMOVED,) if is_increment else ())
    return {f"{name}.{field}" for name in tables for field in fields}


def changed_rows(tables: Mapping[str, DynamicTable]) -> dict[str, ShardedTensor]:
    """The rows of all processes that were touched or removed since the tables were last saved."""
    changed: dict[str, ShardedTensor] = {}
    for name, table in tables.items():
        touched = table.touched()
        rows = {field: getattr(touched, field) for field in _ROWS + _WAITING}
        rows[_REMOVED] = table.removed().unique()  # some came again, and went again
        for field, of in rows.items():
            changed[f"{name}.{field}"] = sharded_rows(of.split(_LONGEST), of[:0])
    return changed


def load_tables(tables: Mapping[str, DynamicTable], chain: Sequence[CheckpointReader]) -> None:
    """Loads the rows of all tables: a whole checkpoint's, then what each later one changed."""
    for name, table in tables.items():
        table.clear()
        table.use_seed()
        for reader in chain:
            if f"{name}.{_REMOVED}" in reader.tensors():
                for removed in _shares(reader, name, (_REMOVED,)):
                    table.remove_ids(removed[_REMOVED])
            for rows in _shares(reader, name, _ROWS, _WAITING):
                table.load_rows(TableRows(**rows).live())


def live_rows(name: str, chain: Sequence[CheckpointReader]) -> tuple[Tensor, Tensor]:
    """The ids [n] that have rows in a table, and their weights [n, D], read by one process."""
    ids = weight = torch.empty(0)
    for reader in chain:
        read = {
            field: reader.rows(f"{name}.{field}", 0, entry.size[0])
            for field in ("ids", "seen", "weight", _REMOVED)
            if (entry := reader.tensors().get(f"{name}.{field}"))
        }
        live = read["seen"][:, 0] > 0
        new_ids, new_weight = read["ids"][live], read["weight"][live]
        if _REMOVED not in read:
            ids, weight = new_ids, new_weight
            continue
        stays = ~torch.isin(ids, torch.cat([read[_REMOVED], new_ids]))
        ids = torch.cat([ids[stays], new_ids])
        weight = torch.cat([weight[stays], new_weight])
    return ids, weight


def _shares(
    reader: CheckpointReader, name: str, *groups: Sequence[str]
) -> Iterator[dict[str, Tensor]]:
    """This process's share of a table's saved rows, in as many pieces as on any process.

    Args:
        groups: fields that have as many rows as each other.
    """
    rank, num_processes = dist.get_rank(), dist.get_world_size()
    pieces = [reader.pieces(f"{name}.{group[0]}", _LONGEST) for group in groups]
    for turn in range(0, max(map(len, pieces)), num_processes):
        mine = [(*of[turn + rank : turn + rank + 1], (0, 0))[0] for of in pieces]
        places = {field: place for of, place in zip(groups, mine, strict=True) for field in of}
        yield _read_together(reader, name, places)


def _read_together(
    reader: CheckpointReader, name: str, places: Mapping[str, tuple[int, int]]
) -> dict[str, Tensor]:
    """Rows of a table's fields; raises on all processes if one cannot read its own."""
    rows: dict[str, Tensor] = {}

    def read() -> None:
        for field, (start, num_rows) in places.items():
            rows[field] = reader.rows(f"{name}.{field}", start, num_rows)

    on_all(read, f"cannot read checkpoint {reader.path}")
    return rows
