"""Where the tokens of an HSTU ranker stand, and what each of them sees.

A row is [user's tokens ; its events' ; its candidates]. The user's tokens see each other, the
events' what is in front of them, a candidate the user's, those of strictly earlier events, and
itself. In HSTU's production mask the contextual tokens see the history too; in a window of several
moments that would hand an exposure what came after it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torchrec_gr.models.ranking_inputs import RankingInputs
from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.ops.attention_spans import KeySpans
from torchrec_gr.ops.jagged_concat import jagged_concat
from torchrec_gr.sequences.candidate_layout import (
    CandidateLayout,
    lay_out_candidates,
    offsets_of,
    require_room,
)
from torchrec_gr.sequences.request_batch import NO_TIME


class Context(NamedTuple):
    """N tokens of U users and their events; no candidate changes them.

    Args:
        tokens: [N, D].
        rows: of these tokens, each of which is asked for.
    """

    tokens: Tensor
    rows: AttentionRows


class CandidateTokens(NamedTuple):
    """C candidates of U rows, which stand behind contexts.

    Args:
        tokens: [C, D].
        lengths: [U] int64, candidates of each row.
        num_visible: [C] int64, how many leading tokens of its row's context each sees.
        times: [C] int64, the moments that their histories end before.
    """

    tokens: Tensor
    lengths: Tensor
    num_visible: Tensor
    times: Tensor


def lay_out_context(
    user: Tensor, events: Tensor, inputs: RankingInputs, tokens_per_event: int, max_seq_len: int
) -> Context:
    """Puts the tokens of users and events in their places.

    Args:
        user: [U * F, D], row after row.
        events: [T * tokens an event, D], row after row.
        inputs: what they are made of.
        tokens_per_event: 1 or more.
        max_seq_len: tokens of the longest row.

    Raises:
        ValueError: a row of more tokens.
    """
    num_rows, num_tokens = inputs.num_history.shape[0], user.shape[0] + events.shape[0]
    num_user = user.shape[0] // num_rows
    num_history = tokens_per_event * inputs.num_history
    lengths = num_user + num_history
    require_room(lengths, max_seq_len)
    user_offsets = num_user * torch.arange(num_rows + 1, device=lengths.device)
    event_offsets, offsets = offsets_of(num_history), offsets_of(lengths)
    tokens = jagged_concat(user, events, user_offsets, event_offsets)
    times = jagged_concat(
        inputs.event_times.new_full(user.shape[:1], NO_TIME),
        inputs.event_times.repeat_interleave(tokens_per_event),
        user_offsets,
        event_offsets,
    )
    places = torch.arange(num_tokens, device=lengths.device)
    places = places - offsets[:-1].repeat_interleave(lengths, output_size=num_tokens)
    end = places.masked_fill(places < num_user, num_user)
    spans = KeySpans(torch.zeros_like(end).int(), end.int())
    rows = AttentionRows(offsets, offsets, spans, max_seq_len, positions=places, times=times)
    return Context(tokens, rows)


def lay_out_rows(
    context: AttentionRows, candidates: CandidateTokens
) -> tuple[CandidateLayout, AttentionRows]:
    """Rows [context ; candidates], every token of which is asked for.

    A candidate has the position behind the last token that it sees, so that neither the order of
    candidates nor the length of its row changes its score.

    Args:
        context: as `lay_out_context` gives it.
        candidates: any part of the rows' candidates.

    Raises:
        ValueError: a row of more tokens than the context's `max_seq_len`.
    """
    layout = lay_out_candidates(
        context.k_offsets.diff(),
        candidates.lengths,
        sums=(context.spans.end.shape[0], candidates.num_visible.shape[0]),
    )
    require_room(layout.offsets.diff(), context.max_seq_len)
    end = layout.interleave(context.spans.end, candidates.num_visible.int())
    assert context.positions is not None
    assert context.times is not None
    rows = AttentionRows(
        layout.offsets,
        layout.offsets,
        KeySpans(torch.zeros_like(end), end),
        context.max_seq_len,
        positions=layout.interleave(context.positions, candidates.num_visible),
        times=layout.interleave(context.times, candidates.times),
    )
    return layout, rows
