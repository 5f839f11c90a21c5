"""GAUC against a loop over users."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_gr.metrics import auc, gauc


def gauc_by_loop(labels: np.ndarray, scores: np.ndarray, users: np.ndarray) -> tuple:
    total, weight, counted, left_out = 0.0, 0, 0, 0
    for user in set(users.tolist()):
        own = users == user
        if len(set(labels[own].tolist())) == 1:
            left_out += 1
            continue
        counted += 1
        weight += own.sum()
        total += own.sum() * auc(labels[own], scores[own])
    return total / weight, counted, left_out


_ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(-2, 5)), min_size=1, max_size=80
)


@settings(deadline=None)
@given(_ROWS, st.booleans())
def test_equals_a_loop_over_users(rows: list[tuple[int, int, int]], named: bool) -> None:
    labels, scores, users = (np.array(column) for column in zip(*rows, strict=True))
    if named:
        users = users.astype(np.str_)
    if all(len(set(labels[users == user].tolist())) == 1 for user in users):
        with pytest.raises(ValueError, match="user with both classes"):
            gauc(labels, scores, users)
        return
    value, counted, left_out = gauc_by_loop(labels, scores, users)
    assert gauc(labels, scores, users) == (pytest.approx(value, abs=1e-12), counted, left_out)


def test_weighs_users_by_impressions_and_counts_those_left_out() -> None:
    labels = torch.tensor([1, 0, 1, 0, 0, 0, 1, 1])
    scores = torch.tensor([2.0, 1.0, 1.0, 2.0, 0.0, 2.0, 0.0, 0.0])
    users = torch.tensor([7, 7, 3, 3, 3, 3, 5, 5])
    # user 7: 2 impressions, AUC 1; user 3: 4 impressions, AUC 1/3; user 5: one class
    assert gauc(labels, scores, users) == (pytest.approx((2 * 1 + 4 / 3) / 6), 2, 1)


def test_an_offset_of_a_users_scores_does_not_matter() -> None:
    generator = np.random.default_rng(0)
    labels, users = generator.integers(0, 2, 500), generator.integers(0, 40, 500)
    scores = generator.normal(size=500)
    offset = 10 * generator.normal(size=40)
    assert gauc(labels, scores + offset[users], users) == gauc(labels, scores, users)


def test_refuses_users_that_are_not_one_a_row() -> None:
    with pytest.raises(ValueError, match="user_ids must be one a label: 1 for 2"):
        gauc(np.array([0, 1]), np.array([0.0, 1.0]), np.array([1]))
