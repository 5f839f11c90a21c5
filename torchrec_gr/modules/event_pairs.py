"""Which events of a history predict which later ones: the pairs of PinFM's three losses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class EventPairs(NamedTuple):
    """Each pair is an event and a later one that it is to predict.

    Args:
        query: [N] int64, places of the predicting events among all tokens.
        target: [N] int64, places of the predicted ones.
    """

    query: Tensor
    target: Tensor


def next_token_pairs(offsets: Tensor, is_positive: Tensor) -> EventPairs:
    """Each positive event, predicted by the event right before it.

    Args:
        offsets: [U + 1] integers, where each row of events starts.
        is_positive: [T] bool, the events that may be predicted.

    Source: PinFM, 2507.12704, L_ntl.
    """
    return window_pairs(offsets, is_positive, window=1, max_pairs=None)


def window_pairs(
    offsets: Tensor, is_positive: Tensor, *, window: int, max_pairs: int | None
) -> EventPairs:
    """Each positive event, predicted by each of the `window` events before it.

    Memory beside the pairs returned: a few tensors of T integers and, where pairs are drawn, one
    integer for each pair there is (at most T * window).

    Args:
        offsets: [U + 1] integers, where each row of events starts.
        is_positive: [T] bool, the events that may be predicted.
        window: at most so many events from the predicting event to the predicted one.
        max_pairs: of more pairs than this, so many are drawn uniformly, without replacement and by
            torch's generator; None: all are kept.

    Returns:
        The pairs, by rising target.

    Raises:
        ValueError: the window or the number of pairs is under 1.

    Source: PinFM, 2507.12704, L_mtl.
    """
    _expect_positive(window=window, max_pairs=1 if max_pairs is None else max_pairs)
    targets = is_positive.nonzero().flatten()
    num_queries = _positions(offsets, len(is_positive))[targets].clamp(max=window)
    ends = num_queries.cumsum(0)
    pairs = torch.arange(int(num_queries.sum()), device=ends.device)
    if max_pairs is not None and len(pairs) > max_pairs:
        pairs = torch.randperm(len(pairs), device=ends.device)[:max_pairs].sort().values
    of_target = torch.searchsorted(ends, pairs, right=True)
    target = targets[of_target]
    return EventPairs(target - (ends[of_target] - pairs), target)


def future_pairs(
    offsets: Tensor, is_positive: Tensor, *, served_length: int, window: int
) -> EventPairs:
    """Positive events behind the length that is served, predicted by the last event of that length.

    Args:
        offsets: [U + 1] integers, where each row of events starts; a row of up to `served_length`
            events has no pairs.
        is_positive: [T] bool, the events that may be predicted.
        served_length: events that the model will see when it serves.
        window: so many events behind them are predicted.

    Returns:
        The pairs, by rising target.

    Raises:
        ValueError: the length or the window is under 1.

    Source: PinFM, 2507.12704, L_ftl.
    """
    _expect_positive(served_length=served_length, window=window)
    ahead = _positions(offsets, len(is_positive)) - (served_length - 1)
    target = (is_positive & (ahead >= 1) & (ahead <= window)).nonzero().flatten()
    return EventPairs(target - ahead[target], target)


def _positions(offsets: Tensor, num_events: int) -> Tensor:
    """[T] int64: the place of each event in its row."""
    starts = offsets[:-1].long().repeat_interleave(offsets.diff(), output_size=num_events)
    return torch.arange(num_events, device=offsets.device) - starts


def _expect_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}: expected at least 1, got {number}")
