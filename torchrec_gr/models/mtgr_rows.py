"""Where MTGR's tokens stand, of which kind they are, and what each of them sees."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from torchrec_gr.models.mtgr_config import TOKEN_KINDS, MTGRConfig
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
from torchrec_gr.sequences.visibility import mtgr


@dataclasses.dataclass(frozen=True)
class MTGRRows:
    """T tokens in U rows [user ; static ; real-time ; candidates].

    Args:
        layout: of [user and history ; candidates].
        user_offsets, event_offsets: [U + 1] int64, where each row's user tokens begin among all
            user tokens, and its events among all events.
        attention: what each token sees.
        kinds: [T] int64, place in TOKEN_KINDS.
        positions: [T] int64, place in the row; of a candidate that behind the events it sees.
        num_seen: [C] int64, the events that each candidate sees.
    """

    layout: CandidateLayout
    user_offsets: Tensor
    event_offsets: Tensor
    attention: AttentionRows
    kinds: Tensor
    positions: Tensor
    num_seen: Tensor

    def join(self, user: Tensor, events: Tensor, candidates: Tensor) -> Tensor:
        """[T, ...]: puts values of user tokens, events and candidates in their places."""
        context = jagged_concat(user, events, self.user_offsets, self.event_offsets)
        return self.layout.interleave(context, candidates)


def lay_out_rows(inputs: RankingInputs, num_user: int, config: MTGRConfig) -> MTGRRows:
    """Lays the tokens of a batch out.

    Args:
        inputs: of U rows.
        num_user: user tokens of every row.
        config: which mask, and how long a row may be.

    Raises:
        ValueError: a row of more tokens than `max_seq_len`, or history events out of order.
    """
    num_context = inputs.num_history + num_user
    num_rows, num_events = num_context.shape[0], inputs.event_times.shape[0]
    layout = lay_out_candidates(
        num_context,
        inputs.num_candidates,
        sums=(num_events + num_user * num_rows, inputs.candidate_times.shape[0]),
    )
    require_room(layout.offsets.diff(), config.max_seq_len)
    user_offsets = num_user * torch.arange(num_rows + 1, device=num_context.device)
    event_offsets = offsets_of(inputs.num_history)
    rows = torch.arange(num_rows, device=num_context.device)
    rows = rows.repeat_interleave(layout.offsets.diff(), output_size=layout.num_tokens)
    places = torch.arange(layout.num_tokens, device=rows.device) - layout.offsets[rows]
    kinds = (places >= num_user).long()
    kinds += places >= num_user + inputs.num_static[rows]
    kinds += places >= num_context[rows]

    times = jagged_concat(
        inputs.event_times.new_zeros(num_user * num_rows),
        inputs.event_times,
        user_offsets,
        event_offsets,
    )
    times = layout.interleave(times, _moments(inputs, config))
    spans = _spans(inputs, layout.offsets, num_user, times, places, config)
    is_candidate = kinds == TOKEN_KINDS.index("candidate")
    positions = torch.where(is_candidate, spans.end.long(), places)
    return MTGRRows(
        layout=layout,
        user_offsets=user_offsets,
        event_offsets=event_offsets,
        attention=AttentionRows(layout.offsets, layout.offsets, spans, config.max_seq_len),
        kinds=kinds,
        positions=positions,
        num_seen=positions[layout.candidate_index] - num_user,
    )


def _spans(
    inputs: RankingInputs,
    offsets: Tensor,
    num_user: int,
    times: Tensor,
    places: Tensor,
    config: MTGRConfig,
) -> KeySpans:
    num_history, num_static = inputs.num_history, inputs.num_static
    if config.mask == "causal" or config.flow == "dfgr":
        num_static = torch.zeros_like(num_history)
        times = torch.where(times == NO_TIME, NO_TIME + 1 + places, times)  # known is their order
    return mtgr(offsets, num_user + num_static, num_history - num_static, times)


def _moments(inputs: RankingInputs, config: MTGRConfig) -> Tensor:
    """[C] int64: a candidate sees what happened before; under "causal" before its row's first."""
    times, num_candidates = inputs.candidate_times, inputs.num_candidates
    if config.mask == "dynamic":
        return times
    rows = torch.arange(num_candidates.shape[0], device=times.device)
    rows = rows.repeat_interleave(num_candidates, output_size=times.shape[0])
    first = times.new_full(num_candidates.shape, torch.iinfo(torch.int64).max)
    return first.scatter_reduce(0, rows, times, "amin")[rows]
