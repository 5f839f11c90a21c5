"""Every sequence of a step goes to one rank, and all ranks have about as much to do."""

from __future__ import annotations

import numpy as np
import pytest

from torchrec_gr.data.rank_shares import rank_shares


def _drawn(count: int, seed: int = 0) -> np.ndarray:
    lengths = np.random.default_rng(seed).lognormal(6.0, 1.0, count)
    return lengths.clip(8, 3000).astype(np.int64)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_every_sequence_has_one_rank(count: int, num_ranks: int) -> None:
    shares = rank_shares(_drawn(count), num_ranks)
    assert len(shares) == num_ranks
    assert sorted(np.concatenate(shares).tolist()) == list(range(count))
    for share in shares:
        assert share.dtype == np.int64
        assert (np.diff(share) > 0).all()
    if count >= num_ranks:
        assert all(len(share) for share in shares)


def test_the_longest_go_first_and_to_the_rank_that_has_least() -> None:
    first, second = rank_shares(np.array([1, 100, 1, 70, 30]), 2)
    assert first.tolist() == [1]  # 100 ** 1.5 = 1000 against 586 + 164 + 1 + 1
    assert second.tolist() == [0, 2, 3, 4]


def test_equal_lengths_are_dealt_out_in_turns() -> None:
    shares = rank_shares(np.full(7, 600), 3)
    assert [share.tolist() for share in shares] == [[0, 3, 6], [1, 4], [2, 5]]


@pytest.mark.parametrize("attention", [1 / 1500, 1 / 400])
def test_ranks_wait_less_for_the_slowest_than_with_as_many_sequences_each(
    attention: float,
) -> None:
    """Work as of a model: some for a token, some for a pair of tokens."""
    dealt = equal = 0.0
    for seed in range(50):
        lengths = _drawn(16, seed)
        work = lengths + attention * lengths.astype(float) ** 2
        dealt += max(work[share].sum() for share in rank_shares(lengths, 2))
        equal += max(work[:8].sum(), work[8:].sum())
    assert equal > 1.2 * dealt
