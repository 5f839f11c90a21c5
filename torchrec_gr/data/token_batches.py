"""Where a line of sequences is cut into batches of about as many tokens each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def num_token_steps(num_tokens: int, num_sequences: int, batch_tokens: int) -> int:
    """How many batches of about `batch_tokens` tokens some sequences make.

    Args:
        num_tokens: of all sequences.
        num_sequences: none of which is cut, so there are no more batches than sequences.
        batch_tokens: what a batch should hold.
    """
    return min(-(-num_tokens // batch_tokens), num_sequences)


def token_cuts(lengths: NDArray[np.int64], num_parts: int) -> NDArray[np.int64]:
    """Cuts a line of sequences into contiguous parts that hold about as many tokens each.

    Cut k is where k / num_parts of all tokens lie before it, or at the sequence's border that is
    nearest to there; of two that are as near, the earlier one. Where there are as many sequences
    as parts, no part is left without one.

    Args:
        lengths: [S] int64, tokens of each sequence, at least 1.
        num_parts: at least 1.

    Returns:
        [num_parts + 1] int64, rising from 0 to S: part k is sequences cuts[k]:cuts[k + 1].

    Source: MTGenRec, 2505.12663, sequence balancing: the cut nearest to a number of tokens, by
        binary search in the cumulative lengths. There each rank cuts its own buffer; here all
        ranks cut one line, so that the batches do not depend on how many ranks there are.
    """
    num_sequences = len(lengths)
    if not num_sequences:
        return np.zeros(num_parts + 1, np.int64)
    parts = np.arange(num_parts + 1)
    borders = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    wanted = borders[-1] * parts / num_parts
    behind = np.searchsorted(borders, wanted).clip(1)
    cuts = behind - (wanted - borders[behind - 1] <= borders[behind] - wanted)
    if num_sequences < num_parts:
        return cuts
    cuts = np.maximum.accumulate(cuts - parts) + parts
    return np.minimum(cuts, num_sequences - num_parts + parts)
