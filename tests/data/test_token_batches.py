"""Cuts by tokens: against a plain search over all borders, and what balance they promise."""

from __future__ import annotations

import numpy as np
import pytest

from torchrec_gr.data.token_batches import num_token_steps, token_cuts


def nearest_borders(lengths: list[int], num_parts: int) -> list[int]:
    """Each cut at the border nearest to its share of the tokens, then moved so that none is empty.

    From the left, a cut stands at least one sequence behind the one before it; from the right, it
    leaves a sequence for each part behind it.
    """
    num_sequences = len(lengths)
    before = [sum(lengths[:border]) for border in range(num_sequences + 1)]
    cuts = []
    for part in range(num_parts + 1):
        away = [abs(tokens * num_parts - part * before[-1]) for tokens in before]
        cuts.append(away.index(min(away)))
    if num_sequences >= num_parts:
        for part in range(1, num_parts + 1):
            cuts[part] = max(cuts[part], cuts[part - 1] + 1)
        for part in range(num_parts + 1):
            cuts[part] = min(cuts[part], num_sequences - (num_parts - part))
    return cuts


@pytest.mark.parametrize("num_parts", [1, 2, 3, 8, 40])
@pytest.mark.parametrize("longest", [1, 5, 1000])
@pytest.mark.parametrize("num_sequences", [0, 1, 2, 7, 40, 41])
def test_cuts_are_the_nearest_borders(num_sequences: int, longest: int, num_parts: int) -> None:
    lengths = np.random.default_rng(num_sequences).integers(1, longest + 1, num_sequences)
    cuts = token_cuts(lengths, num_parts)
    assert cuts.dtype == np.int64
    assert cuts.tolist() == nearest_borders(lengths.tolist(), num_parts)


@pytest.mark.parametrize("num_parts", [2, 3, 16])
def test_every_part_has_its_share_to_within_the_longest_sequence(num_parts: int) -> None:
    """Lengths as skewed as MTGenRec's: 600 on average, 3,000 at most."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        lengths = np.minimum(rng.exponential(600, 64).astype(np.int64) + 1, 3000)
        cuts = token_cuts(lengths, num_parts)
        tokens = np.add.reduceat(lengths, cuts[:-1])
        assert abs(tokens - lengths.sum() / num_parts).max() <= lengths.max()


def test_a_sequence_longer_than_many_parts_leaves_no_part_empty() -> None:
    assert token_cuts(np.array([1, 1, 1000, 1, 1]), 5).tolist() == [0, 1, 2, 3, 4, 5]
    assert token_cuts(np.array([1000, 1, 1]), 3).tolist() == [0, 1, 2, 3]
    assert token_cuts(np.array([1, 1, 1000]), 3).tolist() == [0, 1, 2, 3]


def test_fewer_sequences_than_parts_leave_some_empty() -> None:
    cuts = token_cuts(np.array([5, 5]), 4)
    assert cuts[0] == 0
    assert cuts[-1] == 2
    assert sorted(np.diff(cuts).tolist()) == [0, 0, 1, 1]


def test_steps_hold_the_tokens_that_were_asked_for() -> None:
    assert num_token_steps(100, 10, 50) == 2
    assert num_token_steps(101, 10, 50) == 3
    assert num_token_steps(100, 2, 10) == 2, "a sequence is not cut"
    assert num_token_steps(5, 5, 1000) == 1
    assert num_token_steps(0, 0, 10) == 0
