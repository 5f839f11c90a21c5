"""Which keys a query sees: one span of its own row, and itself."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class KeySpans:
    """The keys that each query sees, positions counted inside the row.

    Query i sees `{j : start[i] <= j < end[i]} + {own[i]}` of the keys of its row. The own position
    inside the span counts once; `start` may lie before the row and `end` past it.

    Args:
        start, end: [Tq] int32.
        own: [Tq] int32, the key position of each query, -1 for none. Left out, the queries are the
            row's trailing tokens: query i of n_q stands at key n_k - n_q + i.
    """

    start: Tensor
    end: Tensor
    own: Tensor | None = None

    def own_or_trailing(self, q_offsets: Tensor, k_offsets: Tensor) -> Tensor:
        """[Tq] integers: `own`, or where it is left out the places of the row's trailing tokens."""
        if self.own is not None:
            return self.own
        num_queries, total = q_offsets.diff(), self.start.shape[0]
        shift = k_offsets.diff() - num_queries - q_offsets[:-1]
        return torch.arange(total, device=shift.device) + shift.repeat_interleave(
            num_queries, output_size=total
        )

    def num_visible(self, q_offsets: Tensor, k_offsets: Tensor) -> Tensor:
        """[Tq] integers: how many keys each query sees, its own counted once.

        Args:
            q_offsets, k_offsets: [B + 1] integers, where each row of queries and of keys begins.
        """
        num_keys = k_offsets.diff().repeat_interleave(
            q_offsets.diff(), output_size=self.start.shape[0]
        )
        start, end = self.start.clamp(min=0), self.end.minimum(num_keys)
        own = self.own_or_trailing(q_offsets, k_offsets)
        own_beside = (own >= 0) & (own < num_keys) & ((own < start) | (own >= end))
        return (end - start).clamp(min=0) + own_beside


def visible_keys(start: Tensor, end: Tensor, own: Tensor, num_keys: int) -> Tensor:
    """The predicate itself, written out: may query i see key j?

    Args:
        start, end, own: [..., Q] integers.
        num_keys: K.

    Returns:
        [..., Q, K] bool.
    """
    key = torch.arange(num_keys, device=start.device, dtype=start.dtype)
    in_span = (key >= start.unsqueeze(-1)) & (key < end.unsqueeze(-1))
    return in_span | (key == own.unsqueeze(-1))
