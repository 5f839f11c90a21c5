"""The map from raw ids to the slots of rows.

A map is `entries` [capacity] int64, a power of two from 16 on: zeros are an empty map. It serves
several tables, whose rows lie in chunks of at most 65,536. Chunk c is of table `chunk_tables[c]`,
and its row r has the id `chunk_ids[c][r]`. The slot `c << 16 | r` names that row. Ids may have any
value; the same id in two tables is two different things.

The ops write to `entries` and `chunk_ids` in place. What a map finds does not depend on the order
in which ids came into it, or on the number of threads. At most three quarters of a map may be in
use: grow it before an insertion.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def id_map_find(
    entries: Tensor,
    chunk_ids: Sequence[Tensor],
    chunk_tables: Sequence[int],
    ids: Tensor,
    offsets: Tensor,
) -> Tensor:
    """Finds the rows of a batch of ids.

    Args:
        entries: [capacity] int64, the map.
        chunk_ids: [r] int64 for each chunk, the ids of its rows.
        chunk_tables: the table of each chunk.
        ids: [n] int64: table t's are ids[offsets[t]:offsets[t + 1]]. They may repeat.
        offsets: [T + 1] int32 or int64.

    Returns:
        [n] int64, the slot of each id, -1 where it is absent.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range; the message names it.
    """
    return torch.ops.torchrec_gr.id_map_find(entries, chunk_ids, chunk_tables, ids, offsets)


def id_map_insert_(
    entries: Tensor,
    chunk_ids: Sequence[Tensor],
    chunk_tables: Sequence[int],
    ids: Tensor,
    offsets: Tensor,
    slots: Tensor,
) -> None:
    """Gives rows to ids that have none yet. Writes to `entries` and `chunk_ids`.

    Args:
        entries, chunk_ids, chunk_tables: as `id_map_find` takes them.
        ids: [n] int64: table t's are ids[offsets[t]:offsets[t + 1]]. Absent so far, and different
            from each other within a table.
        offsets: [T + 1] int32 or int64.
        slots: [n] int64, a row for each, in a chunk of its table. Free so far, and different from
            each other.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range, or more than three
            quarters of the entries would be in use; the message names it.
    """
    torch.ops.torchrec_gr.id_map_insert_(entries, chunk_ids, chunk_tables, ids, offsets, slots)


def id_map_remove_(
    entries: Tensor, chunk_ids: Sequence[Tensor], chunk_tables: Sequence[int], slots: Tensor
) -> None:
    """Forgets the ids of some rows. Writes to `entries`; the rows keep their values.

    Args:
        entries, chunk_ids, chunk_tables: as `id_map_find` takes them.
        slots: [n] int64, rows that the map has, different from each other.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range, or a row is not in the
            map; the message names it.
    """
    torch.ops.torchrec_gr.id_map_remove_(entries, chunk_ids, chunk_tables, slots)


def id_map_grow(entries: Tensor, capacity: int) -> Tensor:
    """Places the entries of a map into a larger one.

    Args:
        entries: [smaller capacity] int64, the map; it is only read.
        capacity: a power of two, more than there is.

    Returns:
        [capacity] int64, a map that finds the same.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range; the message names it.

    Source: MTGRBoost, 2505.12663: the key structure grows by itself and values never move.
    """
    return torch.ops.torchrec_gr.id_map_grow(entries, capacity)


@torch.library.register_fake("torchrec_gr::id_map_find")
def _(
    entries: Tensor,
    chunk_ids: Sequence[Tensor],
    chunk_tables: Sequence[int],
    ids: Tensor,
    offsets: Tensor,
) -> Tensor:
    return torch.empty_like(ids)


@torch.library.register_fake("torchrec_gr::id_map_insert_")
def _(
    entries: Tensor,
    chunk_ids: Sequence[Tensor],
    chunk_tables: Sequence[int],
    ids: Tensor,
    offsets: Tensor,
    slots: Tensor,
) -> None:
    return None


@torch.library.register_fake("torchrec_gr::id_map_remove_")
def _(
    entries: Tensor, chunk_ids: Sequence[Tensor], chunk_tables: Sequence[int], slots: Tensor
) -> None:
    return None


@torch.library.register_fake("torchrec_gr::id_map_grow")
def _(entries: Tensor, capacity: int) -> Tensor:
    return entries.new_empty(capacity)
