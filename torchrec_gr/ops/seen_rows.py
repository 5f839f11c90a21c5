"""How often and when rows were seen, and which of them to evict."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def touch_rows_(seen: Sequence[Tensor], slots: Tensor, counts: Tensor, step: int) -> Tensor:
    """Records that rows were seen. Writes to `seen`.

    Args:
        seen: [r, 2] int32 for each chunk: how often a row was seen, which stays at 2^31 - 1 once it
            is there, and the step when it was seen last.
        slots: [n] int64, rows, different from each other; -1 is skipped.
        counts: [n] int64, how often each was seen now.
        step: the present step, from 0 to 2^31 - 1.

    Returns:
        [n] int64, how often each row has been seen by now; 0 for the slot -1.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range; the message names it.
    """
    return torch.ops.torchrec_gr.touch_rows_(seen, slots, counts, step)


def rows_to_evict(
    chunk_ids: Sequence[Tensor],
    seen: Sequence[Tensor],
    chunks: Sequence[int],
    num: int,
    policy: str,
    step: int,
) -> Tensor:
    """Chooses rows to evict among those in use, which are the ones with a count above 0.

    Args:
        chunk_ids: [r] int64 for each chunk, the ids of its rows.
        seen: [r, 2] int32 for each chunk: how often each row was seen, and the step when last.
        chunks: the numbers of the chunks to choose from, each once.
        num: how many rows to choose.
        policy: "lru", the rows first in order of (step last seen, count, id), or "lfu", of (count,
            step last seen, id). Equal ids of two tables are ordered by their slots.
        step: rows that were seen at this step or later stay.

    Returns:
        [num] int64, their slots in that order; fewer where there are not as many.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range; the message names it.
    """
    if not chunk_ids:  # without a tensor the dispatcher finds no kernel
        return torch.empty(0, dtype=torch.int64)
    return torch.ops.torchrec_gr.rows_to_evict(chunk_ids, seen, chunks, num, policy, step)


@torch.library.register_fake("torchrec_gr::touch_rows_")
def _(seen: Sequence[Tensor], slots: Tensor, counts: Tensor, step: int) -> Tensor:
    return torch.empty_like(counts)


@torch.library.register_fake("torchrec_gr::rows_to_evict")
def _(
    chunk_ids: Sequence[Tensor],
    seen: Sequence[Tensor],
    chunks: Sequence[int],
    num: int,
    policy: str,
    step: int,
) -> Tensor:
    return torch.empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)
