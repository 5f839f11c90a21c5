"""Training on a random part of long histories."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from torchrec_gr.sequences.request_batch import NO_TIME


class StochasticLength:
    """Keeps a history of n events whole, or int(max_length ** (alpha / 2)) of its events.

    Up to this threshold a history is always whole. A longer one is with probability
    max_length ** alpha / n ** 2, otherwise it is cut to the threshold. So the square of the length,
    the cost of attention, is at most 2 * max_length ** alpha on average, however long it is.

    Args:
        alpha: 2 cuts only what is longer than `max_length`; the nearer to 1, the more is cut.
        max_length: N, the configured length of a history.

    Raises:
        ValueError: `alpha` not above 1 and up to 2, or `max_length` below 1.

    Source: HSTU, 2402.17152, stochastic length.
    """

    def __init__(self, alpha: float, max_length: int) -> None:
        if not 1 < alpha <= 2:
            raise ValueError(f"alpha must be above 1 and at most 2, got {alpha}")
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        self.threshold = int(max_length ** (alpha / 2))
        self._cost = max_length**alpha

    def lengths(
        self, lengths: NDArray[np.int64], generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """Draws how many events of each history are kept: [U] int64.

        Args:
            lengths: [U] int64, events of each history.
            generator: one number a history is drawn from it.
        """
        stays = generator.random(len(lengths)) * np.square(lengths, dtype=np.float64) < self._cost
        return np.where(stays, lengths, np.minimum(lengths, self.threshold))


def keep_events(
    times: NDArray[np.int64],
    lengths: NDArray[np.int64],
    num_kept: NDArray[np.int64],
    uniform: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Draws which events of each history are kept, without replacement: newer ones rather.

    Event i of a history has weight 1 - (t_n - t_i) / sum_j (t_n - t_j), where t_n is the newest
    time. Where an event has no time, the places of the history's events stand for their times.

    Args:
        times: [T] int64, history after history, oldest first; NO_TIME where unknown.
        lengths: [U] int64, events of each history; T together.
        num_kept: [U] int64, how many of them are kept.
        uniform: [T] float64, drawn from [0, 1).

    Returns:
        [T] bool.

    Source: HSTU, 2402.17152, stochastic length, its "feature-weighted" selection.
    """
    history = np.repeat(np.arange(len(lengths)), lengths)
    ages = _ages(times, lengths, history)
    totals = np.bincount(history, ages, minlength=len(lengths))[history]
    weights = 1 - np.divide(ages, totals, out=np.zeros_like(ages), where=totals > 0)
    # Drawing without replacement by weights is drawing an exponential time of each rate and keeping
    # what comes first (Efraimidis and Spirakis, 2006).
    with np.errstate(divide="ignore"):
        arrival = -np.log1p(-uniform) / weights
    order = np.lexsort((arrival, history))
    kept = np.empty(len(times), np.bool_)
    kept[order] = _places(lengths) < np.repeat(num_kept, lengths)
    return kept


def _ages(
    times: NDArray[np.int64], lengths: NDArray[np.int64], history: NDArray[np.int64]
) -> NDArray[np.float64]:
    """[T]: how long before its history's newest event each one was."""
    newest = np.cumsum(lengths) - 1
    untimed = np.bincount(history, times == NO_TIME, minlength=len(lengths)) > 0
    clock = np.where(untimed[history], np.arange(len(times)), times)
    return (clock[newest[history]] - clock).astype(np.float64)


def _places(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, ..., lengths[0] - 1, 0, 1, ...: the place of each event in its history."""
    first = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(first, lengths)
