"""Which process owns an id."""

from __future__ import annotations

import torch
from torch import Tensor


def route_ids(ids: Tensor, offsets: Tensor, num_owners: int) -> tuple[Tensor, Tensor]:
    """Sorts the ids of a batch by the process that owns them.

    The owner is a mixed hash of the id alone, whatever its table: small ids, or ids that rise one
    by one, spread over all owners. On the CPU alone. Not differentiable: integers in, integers out.

    Args:
        ids: [n] int64, of any value: table t's are ids[offsets[t]:offsets[t + 1]].
        offsets: [T + 1] int32 or int64.
        num_owners: how many processes there are, at least 1.

    Returns:
        order: [n] int64, the positions of the ids sorted by (owner, table); those of one owner and
            table keep their order.
        lengths: [num_owners * T] int64, how many ids each owner has of each table, those of an
            owner side by side.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range; the message names it.
    """
    return torch.ops.torchrec_gr.route_ids(ids, offsets, num_owners)


@torch.library.register_fake("torchrec_gr::route_ids")
def _(ids: Tensor, offsets: Tensor, num_owners: int) -> tuple[Tensor, Tensor]:
    num_lengths = num_owners * (offsets.shape[0] - 1)
    return torch.empty_like(ids), ids.new_empty(num_lengths)
