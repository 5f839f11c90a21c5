"""Neighbouring events of a history, merged into one token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.sasrec_layer import SASRecLayer
from torchrec_gr.sequences.candidate_layout import offsets_of
from torchrec_gr.sequences.visibility import set_wise


class EventMerger(nn.Module):
    """Events that see their group, then joined side by side and projected: a token a group.

    Groups are counted from the newest event, so that newer events never wait for a group to fill:
    the oldest group of a history may be a part of one, and zeros stand for what it lacks. Nothing
    is padded in attention. `merge` 1 leaves events as they are.

    Args:
        dim: D, width of events and tokens.
        merge: K, events of a group.
        num_heads: of the layer in which a group's events see each other.
        dropout: in that layer.

    Raises:
        ValueError: `merge` below 1, or heads that do not divide the width.

    Source: LONGER, 2505.04421, token merge and InnerTrans; that the joined events are projected to
        the width of one is ours.
    """

    def __init__(self, dim: int, merge: int, *, num_heads: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        if merge < 1:
            raise ValueError(f"merge: expected at least 1, got {merge}")
        self.merge = merge
        self.inner = self.projection = None
        if merge > 1:
            self.inner = SASRecLayer(dim, num_heads, 4 * dim, dropout=dropout, max_seq_len=merge)
            self.projection = nn.Linear(merge * dim, dim)

    def forward(self, events: Tensor, num_events: Tensor) -> tuple[Tensor, Tensor]:
        """Merges the events of U histories, each oldest first.

        Args:
            events: [T, D].
            num_events: [U] int64, of each history.

        Returns:
            [G, D] tokens, oldest first, and [U] int64, how many each history has.
        """
        if self.inner is None or self.projection is None:
            return events, num_events
        num_groups = -(-num_events // self.merge)
        group_ends, event_ends = offsets_of(num_groups)[1:], offsets_of(num_events)[1:]
        # A history ends where its last group does; what its oldest group lacks comes before it.
        shifts = (group_ends * self.merge - event_ends).repeat_interleave(
            num_events, output_size=events.shape[0]
        )
        slots = torch.arange(events.shape[0], device=shifts.device) + shifts
        num_tokens = int(num_groups.sum())
        # Without any group there is one without events, because attention needs a row.
        starts = torch.arange(max(num_tokens, 1) + 1, device=slots.device) * self.merge
        groups = torch.searchsorted(slots, starts)
        events = self.inner(events, AttentionRows(groups, groups, set_wise(groups), self.merge))
        joined = events.new_zeros(num_tokens * self.merge, self.projection.out_features)
        joined = joined.index_copy(0, slots, events)
        return self.projection(joined.view(num_tokens, self.projection.in_features)), num_groups
