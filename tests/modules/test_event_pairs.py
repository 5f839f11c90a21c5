"""The pairs of events against loops over the rows."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchrec_gr.modules.event_pairs import (
    EventPairs,
    future_pairs,
    next_token_pairs,
    window_pairs,
)

LENGTHS = st.lists(st.integers(0, 9), max_size=6)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Offsets of some rows, empty ones among them, and the events that may be predicted."""
    lengths = draw(LENGTHS)
    total = sum(lengths)
    is_positive = draw(st.lists(st.booleans(), min_size=total, max_size=total))
    offsets = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0)
    return offsets, torch.tensor(is_positive, dtype=torch.bool)


def _rows(offsets: Tensor) -> list[range]:
    return [range(*bounds) for bounds in pairwise(offsets.tolist())]


def _window_by_definition(
    offsets: Tensor, is_positive: Tensor, window: int
) -> list[tuple[int, int]]:
    return [
        (i, j)
        for row in _rows(offsets)
        for j in row
        for i in row
        if i < j <= i + window and is_positive[j]
    ]


def _listed(pairs: EventPairs) -> list[tuple[int, int]]:
    assert pairs.query.dtype == pairs.target.dtype == torch.int64
    return list(zip(pairs.query.tolist(), pairs.target.tolist(), strict=True))


@settings(deadline=None)
@given(batches())
def test_next_token_pairs(batch: tuple[Tensor, Tensor]) -> None:
    offsets, is_positive = batch
    expected = [(row[p - 1], row[p]) for row in _rows(offsets) for p in range(1, len(row))]
    expected = [(i, j) for i, j in expected if is_positive[j]]
    assert _listed(next_token_pairs(offsets, is_positive)) == expected


@settings(deadline=None)
@given(batches(), st.integers(1, 12))
def test_window_pairs(batch: tuple[Tensor, Tensor], window: int) -> None:
    pairs = window_pairs(*batch, window=window, max_pairs=None)
    assert _listed(pairs) == _window_by_definition(*batch, window)


@settings(deadline=None)
@given(batches(), st.integers(1, 12), st.integers(1, 40))
def test_drawn_pairs_are_distinct_pairs_of_the_window(
    batch: tuple[Tensor, Tensor], window: int, max_pairs: int
) -> None:
    drawn = _listed(window_pairs(*batch, window=window, max_pairs=max_pairs))
    every = _window_by_definition(*batch, window)
    assert len(drawn) == min(max_pairs, len(every))
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(every)


def test_every_pair_is_as_likely_to_be_drawn_and_the_seed_decides() -> None:
    torch.manual_seed(0)
    batch = torch.tensor([0, 5, 5, 8]), torch.tensor([1, 1, 0, 1, 1, 0, 1, 1], dtype=torch.bool)
    every = _window_by_definition(*batch, 3)
    trials, kept = 4000, 4
    counts: Counter[tuple[int, int]] = Counter()
    for _ in range(trials):
        counts.update(_listed(window_pairs(*batch, window=3, max_pairs=kept)))
    share = kept / len(every)
    sigma = (trials * share * (1 - share)) ** 0.5
    assert set(counts) == set(every)
    assert all(abs(count - trials * share) < 5 * sigma for count in counts.values())
    draws = []
    for seed in (1, 1, 2, 3):
        torch.manual_seed(seed)
        draws.append(_listed(window_pairs(*batch, window=3, max_pairs=kept)))
    assert draws[0] == draws[1]
    assert len({tuple(draw) for draw in draws}) > 1


@settings(deadline=None)
@given(batches(), st.integers(1, 10), st.integers(1, 6))
def test_future_pairs(batch: tuple[Tensor, Tensor], served_length: int, window: int) -> None:
    offsets, is_positive = batch
    expected = [
        (row[served_length - 1], row[p])
        for row in _rows(offsets)
        for p in range(served_length, min(served_length + window, len(row)))
        if is_positive[row[p]]
    ]
    pairs = future_pairs(offsets, is_positive, served_length=served_length, window=window)
    assert _listed(pairs) == expected


def test_no_rows_and_one_event() -> None:
    for offsets, is_positive in (([0], []), ([0, 0], []), ([0, 1], [True])):
        batch = torch.tensor(offsets), torch.tensor(is_positive, dtype=torch.bool)
        assert _listed(next_token_pairs(*batch)) == []
        assert _listed(window_pairs(*batch, window=3, max_pairs=1)) == []
        assert _listed(future_pairs(*batch, served_length=1, window=3)) == []


def test_numbers_under_one_are_refused() -> None:
    batch = torch.tensor([0, 3]), torch.ones(3, dtype=torch.bool)
    with pytest.raises(ValueError, match="window: expected at least 1, got 0"):
        window_pairs(*batch, window=0, max_pairs=None)
    with pytest.raises(ValueError, match="max_pairs: expected at least 1, got 0"):
        window_pairs(*batch, window=1, max_pairs=0)
    with pytest.raises(ValueError, match="served_length: expected at least 1, got 0"):
        future_pairs(*batch, served_length=0, window=1)
