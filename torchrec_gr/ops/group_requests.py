"""Deduplication: the rows of a jagged batch that are equal."""

from __future__ import annotations

import secrets

import torch
from torch import Tensor

# Drawn anew in every process, so that nobody can choose ids whose hashes collide. The result does
# not depend on it.
_SEED = secrets.randbits(60)


def group_requests(values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Groups the equal rows of a jagged batch of ids, in time linear in the ids.

    Rows are equal if they have the same ids in the same order; empty rows are equal. Ids are
    compared one by one where hashes agree, so the groups are exact. On the CPU alone: requests are
    grouped where batches are made. Not differentiable: integers in, integers out.

    The maps are used with gathers that have gradients. Psi keeps one row of each group, of jagged
    x [T, D] or of y [B, ...], and its inverse gives every row its group's z [U, ...]:

        x, lengths = torch.ops.fbgemm.jagged_index_select(x, offsets.diff(), requests)
        y = y.index_select(0, requests)
        z.index_select(0, inverse)

    Args:
        values: [T] or [T, F] int32 or int64: the ids of every token, F feature keys side by side.
        offsets: [B + 1] int32 or int64: row b holds the tokens offsets[b]:offsets[b + 1].

    Returns:
        requests: [U] int64, the first row of each group, rising.
        inverse: [B] int64, the group of each row.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range; the message names it.

    Source: PinFM, 2507.12704: Psi and its inverse, the deduplication of its cross attention (DCAT).
    """
    return torch.ops.torchrec_gr.group_requests(values, offsets, _SEED)


@torch.library.register_fake("torchrec_gr::group_requests")
def _(values: Tensor, offsets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    if offsets.device != values.device:
        raise ValueError(
            f"offsets: expected the device of values, {values.device}; got {offsets.device}"
        )
    num_groups = torch.library.get_ctx().new_dynamic_size()
    requests = values.new_empty(num_groups, dtype=torch.int64)
    return requests, values.new_empty(offsets.shape[0] - 1, dtype=torch.int64)
