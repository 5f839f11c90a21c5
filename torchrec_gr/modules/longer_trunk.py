"""LONGER's layers: a long history is merged and read once, then only a short part of it goes on."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.event_merging import EventMerger
from torchrec_gr.modules.sequence_trunk import SequenceTrunk, TrunkConfig
from torchrec_gr.ops.jagged_concat import jagged_concat
from torchrec_gr.sequences.candidate_layout import (
    CandidateLayout,
    lay_out_candidates,
    offsets_of,
    require_room,
)
from torchrec_gr.sequences.visibility import longer


class LongerTrunk(nn.Module):
    """Candidates across a merged history: the first layer reads all of it, the others little.

    A row is [the user's global tokens ; merged history ; candidates]. In the first layer the global
    tokens, the most recent merged tokens and the candidates ask, and all tokens are seen; behind it
    only these tokens are left. The last layer computes candidates alone.

    Each candidate is a global token, one of its own: it sees the user's tokens and all of the
    history that is left, and of the candidates itself alone. Nothing else sees it, the user's
    global tokens included, which in the paper see the candidate. So what is computed of the history
    and the user serves all candidates of the request, exactly: a request costs one pass, and a
    candidate one token more in it. With one candidate and no tokens of the user this is the paper's
    attention. With `merge` 1, enough recent tokens and no tokens of the user it is `SequenceTrunk`
    on a causal history with candidates behind it.

    Args:
        config: the layers; the first is the cross-causal one. `max_seq_len`: the user's tokens, the
            merged ones of the longest history, and a candidate.
        merge: K, events of a merged token.
        num_recent: merged tokens that are left behind the first layer, the newest ones.

    Raises:
        ValueError: a single layer, no recent token, fewer than one event a token, or a bias over
            time, which merged events do not have one of.

    Source: LONGER, 2505.04421. The layers are of the block that the configuration names.
    """

    def __init__(self, config: TrunkConfig, merge: int, num_recent: int) -> None:
        super().__init__()
        if config.num_layers < 2:
            raise ValueError(
                "num_layers: expected at least 2, the first to read the history and others behind "
                f"it, got {config.num_layers}"
            )
        if num_recent < 1:
            raise ValueError(f"num_recent: expected at least 1, got {num_recent}")
        if config.bias == "position_time":
            raise ValueError(
                "bias 'position_time': merged events have no time of their own; configure "
                "'position', 'alibi' or 'none'"
            )
        self.num_recent = num_recent
        self.max_seq_len = config.max_seq_len
        self.merger = EventMerger(
            config.dim, merge, num_heads=config.num_heads, dropout=config.dropout
        )
        self.layers = SequenceTrunk(config).layers

    def forward(
        self,
        user: Tensor,
        events: Tensor,
        candidates: Tensor,
        num_events: Tensor,
        num_candidates: Tensor,
    ) -> Tensor:
        """Hidden states of candidates.

        Args:
            user: [U, S, D], the user's global tokens; S may be 0.
            events: [T, D], oldest first.
            candidates: [C, D].
            num_events, num_candidates: [U] int64, of each request.

        Returns:
            [C, D].
        """
        merged, num_merged = self.merger(events, num_events)
        user, candidates = user.to(merged.dtype), candidates.to(merged.dtype)  # autocast's choice
        num_user = user.shape[1]
        before = _behind_each(user, merged, num_merged)
        layout = lay_out_candidates(
            num_merged + num_user, num_candidates, sums=(before.shape[0], candidates.shape[0])
        )
        require_room(layout.num_history + 1, self.max_seq_len)
        first, behind = self._rows(layout, num_user, num_candidates)
        x = layout.interleave(before, candidates)
        cross, *middle, last = self.layers
        x = cross(x, first)
        for layer in middle:
            x = layer(x, behind)
        assert first.wanted is not None
        places = torch.searchsorted(first.wanted, layout.candidate_index)
        return cast(Tensor, last(x, behind.narrowed_to(places)))

    def _rows(
        self, layout: CandidateLayout, num_user: int, num_candidates: Tensor
    ) -> tuple[AttentionRows, AttentionRows]:
        """Of the first layer, which asks for a part of the tokens, and of this part alone.

        A global token's position is the one behind the history, whose newest tokens are nearest.
        """
        ends = layout.num_history.repeat_interleave(
            layout.offsets.diff(), output_size=layout.num_tokens
        )
        is_user = layout.positions < num_user
        positions = torch.where(is_user, ends, layout.positions)
        kept = (positions >= ends - self.num_recent).nonzero().flatten()
        offsets = torch.searchsorted(kept, layout.offsets)
        first = AttentionRows(
            offsets,
            layout.offsets,
            longer(offsets, layout.offsets, num_user, num_candidates),
            self.max_seq_len,
            positions=positions,
            wanted=kept,
        )
        behind = AttentionRows(
            offsets,
            offsets,
            longer(offsets, offsets, num_user, num_candidates),
            self.max_seq_len,
            positions=positions[kept],
        )
        return first, behind


def _behind_each(user: Tensor, merged: Tensor, num_merged: Tensor) -> Tensor:
    """[U * S + G, D]: each request's tokens [G, D] behind those of its user [U, S, D]."""
    num_user = user.shape[1]
    user_offsets = torch.arange(user.shape[0] + 1, device=num_merged.device) * num_user
    return jagged_concat(user.flatten(0, 1), merged, user_offsets, offsets_of(num_merged))
