"""How often and when rows were seen, and which to evict, as it is defined."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MOST = 2**31 - 1


def touch_rows_reference(
    seen: Sequence[Tensor], slots: Tensor, counts: Tensor, step: int
) -> Tensor:
    """The oracle of `touch_rows_`: row by row."""
    totals = []
    for slot, count in zip(slots.tolist(), counts.tolist(), strict=True):
        total = 0
        if slot != -1:
            row = seen[slot >> 16][slot & 0xFFFF]
            total = min(int(row[0]) + count, _MOST)
            row[0], row[1] = total, step
        totals.append(total)
    return torch.tensor(totals, dtype=torch.int64)


def rows_to_evict_reference(
    chunk_ids: Sequence[Tensor],
    seen: Sequence[Tensor],
    chunks: Sequence[int],
    num: int,
    policy: str,
    step: int,
) -> Tensor:
    """The oracle of `rows_to_evict`: a sort of all rows."""
    rows = []
    for chunk in chunks:
        columns = zip(chunk_ids[chunk].tolist(), seen[chunk].tolist(), strict=True)
        for row, (id_, (count, last)) in enumerate(columns):
            if count > 0 and last < step:
                first = (last, count) if policy == "lru" else (count, last)
                rows.append((*first, id_, chunk << 16 | row))
    return torch.tensor([row[-1] for row in sorted(rows)[:num]], dtype=torch.int64)
