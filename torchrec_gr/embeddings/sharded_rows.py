"""Rows that processes hold parts of, as one tensor of a state dict."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor import (
    Shard,
    ShardedTensor,
    ShardedTensorMetadata,
    TensorProperties,
)


def sharded_rows(
    parts: Sequence[Tensor], none: Tensor, group: dist.ProcessGroup | None = None
) -> ShardedTensor:
    """All processes' parts, one below the other, without copying any; all must call together.

    Args:
        parts: this process's, [n, ...] each, of any n; may be none.
        none: [0, ...], of the shape and dtype of their rows.
        group: of processes; default: all.
    """
    rank, world_size = dist.get_rank(group), dist.get_world_size(group)
    # torch.distributed.checkpoint knows a shard by where it begins, so that an empty one beside
    # another would take its place; where there are no rows at all, one stands for the tensor.
    mine = [part for part in parts if len(part)]
    sizes = [[len(part) for part in mine]] * world_size
    dist.all_gather_object(sizes, sizes[0], group=group)
    if not any(sizes):
        sizes[0] = [0]
        mine = [none] if rank == 0 else []
    shards: list[Shard] = []
    places: list[ShardMetadata] = []
    total = 0
    for owner, lengths in enumerate(sizes):
        for number, length in enumerate(lengths):
            offsets = [total] + [0] * (none.dim() - 1)
            places.append(ShardMetadata(offsets, [length, *none.shape[1:]], f"rank:{owner}/cpu"))
            if owner == rank:
                shards.append(Shard(mine[number], places[-1]))
            total += length
    whole = ShardedTensorMetadata(
        places, torch.Size([total, *none.shape[1:]]), TensorProperties(dtype=none.dtype)
    )
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        shards, whole, process_group=group
    )
