"""Stochastic length: how often, how much and what is kept."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from torchrec_gr.sequences.request_batch import NO_TIME
from torchrec_gr.sequences.stochastic_length import StochasticLength, keep_events


def keep(times: list[int], num_kept: int, num_draws: int, seed: int = 0) -> np.ndarray:
    """One history's events, drawn many times over: [draws, n] bool."""
    lengths = np.full(num_draws, len(times))
    uniform = np.random.default_rng(seed).random(lengths.sum())
    kept = keep_events(np.tile(times, num_draws), lengths, np.full(num_draws, num_kept), uniform)
    return kept.reshape(num_draws, len(times))


def inclusion(weights: list[float], num_kept: int) -> list[float]:
    """The probability of each to be among those drawn one after the other, by every order."""
    found = [0.0] * len(weights)
    for drawn in itertools.permutations(range(len(weights)), num_kept):
        probability, left = 1.0, sum(weights)
        for place in drawn:
            probability *= weights[place] / left
            left -= weights[place]
        for place in drawn:
            found[place] += probability
    return found


@pytest.mark.parametrize("alpha", [1.2, 1.6, 2.0])
def test_a_history_is_whole_or_cut_to_the_threshold_as_often_as_the_formula_says(
    alpha: float,
) -> None:
    longest, draws = 64, 20_000
    stochastic = StochasticLength(alpha, longest)
    threshold = int(longest ** (alpha / 2))
    assert stochastic.threshold == threshold
    for n in (0, 1, threshold, threshold + 1, 2 * threshold, longest, 3 * longest):
        lengths = stochastic.lengths(np.full(draws, n), np.random.default_rng(n))
        if n <= threshold:
            assert (lengths == n).all()
            continue
        assert set(lengths.tolist()) <= {n, threshold}
        whole = min(longest**alpha / n**2, 1.0)
        spread = (whole * (1 - whole) / draws) ** 0.5
        assert abs((lengths == n).mean() - whole) <= 5 * spread


@pytest.mark.parametrize("num_kept", [1, 2, 3])
@pytest.mark.parametrize("times", [[0, 0, 90, 100], [0, 99, 100, 100], [5, 5, 5, 5]])
def test_events_are_drawn_without_replacement_by_their_weights(
    times: list[int], num_kept: int
) -> None:
    ages = [max(times) - time for time in times]
    weights = [1 - age / sum(ages) if sum(ages) else 1.0 for age in ages]
    kept = keep(times, num_kept, num_draws=40_000)
    assert (kept.sum(axis=1) == num_kept).all()
    expected = np.array(inclusion(weights, num_kept))
    assert np.abs(kept.mean(axis=0) - expected).max() < 5 * 0.5 / 200


def test_the_newest_event_has_the_greatest_weight() -> None:
    kept = keep([0, 40, 70, 90, 100], 2, num_draws=40_000).mean(axis=0)
    assert (np.diff(kept) > 0).all()


def test_places_stand_for_times_where_one_is_unknown() -> None:
    untimed = keep([NO_TIME, NO_TIME, NO_TIME, 10**12], 2, num_draws=1000)
    assert np.array_equal(untimed, keep([0, 1, 2, 3], 2, num_draws=1000))


def test_an_event_of_no_weight_is_kept_last_of_all() -> None:
    """Of two events the older has all of the age, so its weight is 0."""
    assert not keep([0, 100], 1, num_draws=1000)[:, 0].any()
    assert keep([0, 100], 2, num_draws=10).all()


def test_histories_beside_each_other_do_not_change_each_other() -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([0, 5, 1, 0, 9, 3, 0])
    num_kept = np.array([0, 2, 1, 0, 9, 0, 0])
    times = np.concatenate([np.sort(rng.integers(0, 50, n)) for n in lengths])
    times[:2] = NO_TIME
    uniform = rng.random(len(times))
    kept = keep_events(times, lengths, num_kept, uniform)
    ends = np.cumsum(lengths)
    for end, n, count in zip(ends, lengths, num_kept, strict=True):
        here = slice(end - n, end)
        alone = keep_events(times[here], np.array([n]), np.array([count]), uniform[here])
        assert np.array_equal(kept[here], alone)
        assert alone.sum() == count


def test_nothing_is_kept_of_no_history() -> None:
    none = np.zeros(0, np.int64)
    assert keep_events(none, none, none, np.zeros(0)).size == 0
    assert StochasticLength(1.5, 10).lengths(none, np.random.default_rng(0)).size == 0


@pytest.mark.parametrize("alpha", [1.0, 0.5, 2.1, float("nan")])
def test_an_alpha_that_means_nothing_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="above 1 and at most 2"):
        StochasticLength(alpha, 100)
    with pytest.raises(ValueError, match="max_length must be at least 1"):
        StochasticLength(1.5, 0)
