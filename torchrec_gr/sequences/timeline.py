"""Where events and candidates stand in the time of their rows: what lies before each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torchrec_gr.sequences.candidate_layout import offsets_of
from torchrec_gr.sequences.request_batch import NO_TIME


class Before(NamedTuple):
    """What lies before each of N events or candidates in its own row.

    Args:
        num_events: [N] int64. Before an event those in front of it, before a candidate those that
            are strictly earlier than its moment.
        num_times: [N] int64, different times that are strictly earlier; all unknown ones count as
            one.
        newest: [N] int64, the time of the newest of these events; NO_TIME where there is none, or
            where it is not known.
    """

    num_events: Tensor
    num_times: Tensor
    newest: Tensor


def before_events(num_history: Tensor, times: Tensor) -> Before:
    """What lies before each event.

    Args:
        num_history: [U] int64.
        times: [T] int64, oldest first in each row, those that are not known (`NO_TIME`) in front.

    Raises:
        ValueError: the events of a row are not oldest first.
    """
    offsets = offsets_of(num_history)
    first = offsets[:-1].repeat_interleave(num_history, output_size=times.shape[0])
    places = torch.arange(times.shape[0], device=times.device) - first
    previous = times.roll(1)
    is_first = places == 0
    _require_order(is_first | (times >= previous))
    num_new = (is_first | (times != previous)).cumsum(0)
    return Before(places, num_new - num_new[first], previous.masked_fill(is_first, NO_TIME))


def before_candidates(
    num_history: Tensor, times: Tensor, num_candidates: Tensor, candidate_times: Tensor
) -> Before:
    """What lies before each candidate: the events that are strictly earlier than its moment.

    Args:
        num_history, times: as in `before_events`.
        num_candidates: [U] int64.
        candidate_times: [C] int64, in any order.

    Raises:
        ValueError: the events of a row are not oldest first.
    """
    events = before_events(num_history, times)
    rows = torch.arange(num_history.shape[0], device=times.device)
    event_rows = rows.repeat_interleave(num_history, output_size=times.shape[0])
    rows = rows.repeat_interleave(num_candidates, output_size=candidate_times.shape[0])
    # Rows behind each other in one rising line of the events' ranks, so that one search serves all.
    ordered = times.sort().values
    row_width = times.shape[0] + 1
    line = event_rows * row_width + torch.searchsorted(ordered, times)
    moments = rows * row_width + torch.searchsorted(ordered, candidate_times)
    first = offsets_of(num_history)[:-1][rows]
    num_events = torch.searchsorted(line, moments) - first

    knows_none = num_events == 0
    last = (first + num_events).masked_fill(knows_none, 0)  # counted from 1, and 0 for none
    num_times = torch.cat([times.new_full((1,), -1), events.num_times])[last] + 1
    return Before(num_events, num_times, torch.cat([times.new_full((1,), NO_TIME), times])[last])


def _require_order(holds: Tensor) -> None:
    if not torch.compiler.is_compiling() and not bool(holds.all()):
        event = int((~holds).nonzero()[0])
        raise ValueError(
            f"times: expected the events of a row oldest first, but event {event} is earlier than "
            "the one in front of it: sort each user's history by time"
        )
