"""What the layers of a sequence model are told about the rows of their tokens."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from torchrec_gr.ops.attention_spans import KeySpans


@dataclasses.dataclass(frozen=True)
class AttentionRows:
    """The rows of T tokens, of which Tq are asked for.

    Args:
        q_offsets, k_offsets: [B + 1] integers, where each row of the tokens asked for, and each row
            of all tokens, begins.
        spans: which tokens each token asked for sees.
        max_seq_len: configured length of a row.
        rotation: of all tokens' positions, for layers that rotate queries and keys.
        positions: [T] integers, for layers with a bias over distances; None: places in the row.
        times: [T] int64, likewise, for a bias over elapsed time; None: none is known.
        query_times: [T] int64, the moment that a token asks from; None: its own time. HSTU's
            research form asks from the next event's.
        wanted: [Tq] int64, the places of the tokens asked for among all, rising; None: all are.
    """

    q_offsets: Tensor
    k_offsets: Tensor
    spans: KeySpans
    max_seq_len: int
    rotation: Tensor | None = None
    positions: Tensor | None = None
    times: Tensor | None = None
    query_times: Tensor | None = None
    wanted: Tensor | None = None

    def asked_for(self, x: Tensor) -> Tensor:
        """[Tq, ...] of [T, ...]."""
        return x if self.wanted is None else x.index_select(0, self.wanted)

    def narrowed_to(self, wanted: Tensor) -> AttentionRows:
        """The same rows, of which only the tokens at places `wanted` are asked for."""
        spans = self.spans
        own = spans.own_or_trailing(self.q_offsets, self.k_offsets).int()
        return dataclasses.replace(
            self,
            wanted=wanted,
            q_offsets=torch.searchsorted(wanted, self.k_offsets),
            spans=KeySpans(spans.start[wanted], spans.end[wanted], own[wanted]),
        )
