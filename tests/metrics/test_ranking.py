"""HR and NDCG of one right item a user, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from torchrec_gr.metrics import hit_rate, ndcg


@pytest.mark.parametrize("k", [1, 10, 200])
def test_definitions(k: int) -> None:
    ranks = [1, 2, 3, 10, 11, 200, 201, 5000]
    hits = [rank for rank in ranks if rank <= k]
    gains = [1 / math.log2(1 + rank) for rank in hits]
    for given in (np.array(ranks), torch.tensor(ranks)):
        assert hit_rate(given, k) == pytest.approx(len(hits) / len(ranks))
        assert ndcg(given, k) == pytest.approx(sum(gains) / len(ranks))


def test_a_first_place_is_a_gain_of_one() -> None:
    assert ndcg(np.ones(3, np.int64), 1) == 1.0


@pytest.mark.parametrize(
    ("ranks", "k", "message"),
    [
        ([], 10, "one at least"),
        ([0, 1], 10, "1 for the best"),
        ([[1], [2]], 10, "one at least"),
        ([1], 0, "k: expected at least 1"),
    ],
)
def test_what_cannot_be_is_refused(ranks: list[int], k: int, message: str) -> None:
    for metric in (hit_rate, ndcg):
        with pytest.raises(ValueError, match=message):
            metric(np.array(ranks), k)
