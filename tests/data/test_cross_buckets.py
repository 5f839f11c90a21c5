"""Buckets of counts, rates and recencies: their borders, and that they fit their tables."""

from __future__ import annotations

import numpy as np

from torchrec_gr.data.cross_buckets import (
    NEVER,
    NUM_BUCKETS,
    bucket_vocabulary,
    count_buckets,
    rate_buckets,
    recency_buckets,
)


def test_counts_by_powers_of_two() -> None:
    counts = np.array([0, 1, 2, 3, 4, 7, 8, 2**23 - 1, 2**23, 2**40])
    assert count_buckets(counts).tolist() == [NEVER, 2, 3, 3, 4, 4, 5, 24, 25, 25]


def test_rates_by_steps_and_by_how_much_is_known() -> None:
    positives = np.array([0, 0, 1, 1, 1, 5, 19, 3, 4, 399])
    known = np.array([0, 1, 1, 2, 4, 20, 20, 400, 400, 400])
    expected = [NEVER, 2, 21, 22 + 14, 42 + 10, 82 + 10, 82 + 19, 142 + 1, 142 + 2, 142 + 19]
    assert rate_buckets(positives, known).tolist() == expected


def test_a_rate_at_the_border_of_a_step_is_not_rounded_down() -> None:
    steps = np.arange(20)
    at, below = steps**2, np.maximum(steps**2 - 1, 0)
    assert (rate_buckets(at, np.full(20, 400)) == 142 + steps).all()
    assert (rate_buckets(below, np.full(20, 400)) == 142 + np.maximum(steps - 1, 0)).all()


def test_recencies_by_octaves_of_seconds() -> None:
    seconds = np.array([np.nan, 0, 0.5, 1, 2.5, 3, 2.0**40])
    assert recency_buckets(seconds).tolist() == [NEVER, 2, 2, 3, 3, 4, 31]


def test_every_bucket_has_a_row() -> None:
    most = np.array([2**62])
    assert count_buckets(most) == NUM_BUCKETS["count"] - 1
    assert rate_buckets(np.array([2**50]), np.array([2**50])) == NUM_BUCKETS["rate"] - 1
    assert recency_buckets(np.array([1e300])) == NUM_BUCKETS["recency"] - 1
    for statistic, num_buckets in NUM_BUCKETS.items():
        assert bucket_vocabulary("x", statistic).num_rows == num_buckets


def test_nothing_at_all() -> None:
    none = np.zeros(0, np.int64)
    assert count_buckets(none).shape == rate_buckets(none, none).shape == (0,)
    assert recency_buckets(np.zeros(0)).shape == (0,)
