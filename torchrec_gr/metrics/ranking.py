"""How high the one right item of each user stands in a ranking."""

from __future__ import annotations

import numpy as np

from torchrec_gr.metrics.inputs import Vector


def hit_rate(ranks: Vector, k: int) -> float:
    """The share of ranks that are at most k.

    Args:
        ranks: [N] integers, 1 is best; one right item a user.
        k: cutoff, at least 1.

    Raises:
        ValueError: no rank, one below 1, or a cutoff below 1.
    """
    return float((_checked(ranks, k) <= k).mean())


def ndcg(ranks: Vector, k: int) -> float:
    """The mean of 1 / log2(1 + rank), 0 beyond k: the best that one right item can reach is 1.

    Args:
        ranks: [N] integers, 1 is best; one right item a user.
        k: cutoff, at least 1.

    Raises:
        ValueError: no rank, one below 1, or a cutoff below 1.
    """
    places = _checked(ranks, k)
    return float(np.where(places <= k, 1 / np.log2(1 + places), 0.0).mean())


def _checked(ranks: Vector, k: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    places = np.asarray(ranks, dtype=np.float64)
    if places.ndim != 1 or not places.size:
        raise ValueError(f"ranks: expected [N] integers, one at least, got {list(places.shape)}")
    if places.min() < 1:
        raise ValueError(f"ranks: expected 1 for the best, got {places.min():g}")
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    return places
