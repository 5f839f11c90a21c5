"""Which sequences of a step each rank computes, so that none waits long for the others."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

_WORK_EXPONENT = 1.5
"""Of a sequence's tokens: projections grow with their number, attention with its square. Between
the two, shares are even enough whichever of them takes the longer."""


def rank_shares(lengths: NDArray[np.int64], num_ranks: int) -> list[NDArray[np.int64]]:
    """Deals a step's sequences out, those of most work first, each to the rank that has least.

    Args:
        lengths: [S] int64, tokens of each sequence.
        num_ranks: at least 1; with more of them than sequences, some get none.

    Returns:
        For each rank the places of its sequences, rising.

    Source: MTGenRec, 2505.12663, balances the tokens of ranks, each of which cuts a line of its
        own. Two parts cut from one line differ by up to a sequence, and of two ranks with as many
        tokens the one with the longest sequence attends longest.
    """
    work = lengths.astype(np.float64) ** _WORK_EXPONENT
    rank_of = np.zeros(len(lengths), np.int64)
    least = [(0.0, rank) for rank in range(num_ranks)]
    for place in np.argsort(-work, kind="stable").tolist():
        load, rank = least[0]
        rank_of[place] = rank
        heapq.heapreplace(least, (load + work[place], rank))
    return [np.flatnonzero(rank_of == rank) for rank in range(num_ranks)]
