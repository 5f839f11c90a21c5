"""How often an id was shown and what its labels were, as known at a moment."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

PSEUDO_COUNT = 20.0
"""Rows of the mean of everything so far that are added to an id's own."""


@dataclasses.dataclass(frozen=True)
class PastLabels:
    """The training rows of one column of ids, sorted by id and moment.

    Args:
        keys: [N] int64, id and moment in one number, ascending.
        moments: [M] int64, the different moments, ascending.
        positives: [N + 1] labels of the first n rows, summed.
        all_counts, all_positives: [M + 1] rows before each moment, and their labels, summed.
    """

    keys: Ints
    moments: Ints
    positives: Floats
    all_counts: Floats
    all_positives: Floats

    @classmethod
    def of(cls, ids: Ints, moments: Ints, labels: NDArray[np.float32]) -> PastLabels:
        """Sorts training rows.

        Args:
            ids: [N] int64; row 0 stands for many ids: nothing is known of it.
            moments, labels: [N] each, in any order; a label is known after its moment.
        """
        different, ranks = np.unique(moments, return_inverse=True)
        keys = ids * (different.size + 1) + ranks
        order = np.argsort(keys, kind="stable")
        order = order[ids[order] > 0]
        by_moment = np.bincount(ranks, weights=labels, minlength=different.size)
        return cls(
            keys=keys[order],
            moments=different,
            positives=_running_sum(labels[order].astype(np.float64)),
            all_counts=_running_sum(np.bincount(ranks, minlength=different.size)),
            all_positives=_running_sum(by_moment),
        )

    def before(self, ids: Ints, moments: Ints) -> tuple[Ints, Floats]:
        """What was known of each id strictly before a moment.

        Args:
            ids, moments: [N] int64.

        Returns:
            [N] int64 training rows of the id so far, and [N] float64 by how much the log-odds of
            their smoothed mean label exceed those of all rows so far.
        """
        ranks = np.searchsorted(self.moments, moments)
        first = ids * (self.moments.size + 1)
        start, end = np.searchsorted(self.keys, first), np.searchsorted(self.keys, first + ranks)
        counts = (end - start).astype(np.int64)
        positives = self.positives[end] - self.positives[start]
        prior = (self.all_positives[ranks] + 0.5) / (self.all_counts[ranks] + 1)
        mean = (positives + PSEUDO_COUNT * prior) / (counts + PSEUDO_COUNT)
        return counts, np.log(mean / (1 - mean)) - np.log(prior / (1 - prior))


def _running_sum(values: NDArray[np.int64] | NDArray[np.float64]) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
