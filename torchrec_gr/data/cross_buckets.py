"""Statistics of the past as rows of a table: a fixed number of buckets each."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from torchrec_gr.schema.feature_schema import Statistic
from torchrec_gr.schema.vocabulary import Vocabulary

MISSING, NEVER = 0, 1
"""The bucket of a row without a key, and of a key without a past."""

_FIRST = 2  # of the buckets of a key that has a past
_COUNT_OCTAVES = 24
_SECONDS_OCTAVES = 30
_RATE_STEPS = 20
_KNOWN_OCTAVES = 8

NUM_BUCKETS: dict[Statistic, int] = {
    "count": _FIRST + _COUNT_OCTAVES,
    "rate": _FIRST + _KNOWN_OCTAVES * _RATE_STEPS,
    "recency": _FIRST + _SECONDS_OCTAVES,
}
"""Statistic -> rows of a table of its buckets."""


def bucket_vocabulary(table: str, statistic: Statistic) -> Vocabulary:
    """The rows of a table of buckets: bucket b is row b, whatever the log holds."""
    num_buckets = NUM_BUCKETS[statistic]
    ids = pa.array(np.arange(1, num_buckets))
    return Vocabulary(table, ids, np.zeros(num_buckets, dtype=np.int64))


def count_buckets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """[N]: of how many there were, by powers of two."""
    return np.where(counts > 0, _FIRST + _octaves(counts, _COUNT_OCTAVES), NEVER)


def rate_buckets(positives: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.int64]:
    """[N]: of the rate and of how many it is known of.

    The rate goes by twentieths of its square root, finer where it is small; how many are known go
    by powers of two.

    Args:
        positives: [N] int64, how many of the known were 1.
        known: [N] int64.
    """
    squares = positives * _RATE_STEPS**2 // np.maximum(known, 1)  # whole, so the root is exact
    step = np.sqrt(squares).astype(np.int64).clip(0, _RATE_STEPS - 1)
    bucket = _FIRST + _octaves(known, _KNOWN_OCTAVES) * _RATE_STEPS + step
    return np.where(known > 0, bucket, NEVER)


def recency_buckets(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """[N]: of 1 + seconds since the last one, by powers of two.

    Args:
        seconds: [N] float64; NaN: never.
    """
    never = np.isnan(seconds)
    octave = _octaves(1 + np.where(never, 0, seconds), _SECONDS_OCTAVES)
    return np.where(never, NEVER, _FIRST + octave)


def _octaves(values: NDArray[np.float64] | NDArray[np.int64], num: int) -> NDArray[np.int64]:
    """[N]: floor(log2(value)) of values of at least 1, at most num - 1."""
    exponents = np.frexp(values)[1].astype(np.int64) - 1
    return exponents.clip(0, num - 1)
