"""The different ids of a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def unique_ids(
    ids: Tensor, offsets: Tensor, counts: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Finds the different ids of every table, in order of first appearance.

    `unique[inverse]` is `ids`. The same id in two tables is two different things. On the CPU alone.
    Not differentiable: integers in, integers out.

    Args:
        ids: [n] int64, of any value: table t's are ids[offsets[t]:offsets[t + 1]].
        offsets: [T + 1] int32 or int64.
        counts: [n] int64, what each id counts for; 1 by default.

    Returns:
        unique: [u] int64, the different ids, table by table.
        unique_offsets: [T + 1] int64: table t's are unique[unique_offsets[t]:...[t + 1]].
        inverse: [n] int64, where in `unique` each id is.
        counts: [u] int64, the sum of the counts of each.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range; the message names it.

    Source: the stages of deduplication of MTGRBoost, 2505.12663.
    """
    return torch.ops.torchrec_gr.unique_ids(ids, offsets, counts)


@torch.library.register_fake("torchrec_gr::unique_ids")
def _(ids: Tensor, offsets: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_unique = torch.library.get_ctx().new_dynamic_size()
    return (
        ids.new_empty(num_unique),
        offsets.new_empty(offsets.shape[0], dtype=torch.int64),
        torch.empty_like(ids),
        ids.new_empty(num_unique),
    )
