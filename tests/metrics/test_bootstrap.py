"""Resampled AUCs against rows that are really repeated, and intervals against simulation."""

import numpy as np
import pytest

from torchrec_gr.metrics import auc, paired_bootstrap, resampled_aucs


def log(num_rows: int, num_users: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, num_rows)
    users = generator.integers(0, num_users, num_rows)
    scores = np.round(generator.normal(size=num_rows) + 0.5 * labels, 1)  # rounded: with ties
    return labels, users, scores


def aucs_by_repeating_rows(
    labels: np.ndarray, scores: np.ndarray, users: np.ndarray, num_resamples: int, seed: int
) -> list[float]:
    names, codes = np.unique(users, return_inverse=True)
    generator = np.random.default_rng(seed)
    result: list[float] = []
    while len(result) < num_resamples:
        drawn = generator.integers(len(names), size=len(names))
        rows = np.concatenate([np.flatnonzero(codes == user) for user in drawn])
        if len(set(labels[rows].tolist())) == 2:
            result.append(auc(labels[rows], scores[rows]))
    return result


@pytest.mark.parametrize(("num_rows", "num_users"), [(300, 40), (60, 60), (12, 3)])
def test_a_resample_is_the_auc_of_the_users_rows_repeated(num_rows: int, num_users: int) -> None:
    labels, users, scores = log(num_rows, num_users, seed=1)
    names = np.array([f"user {user}" for user in users])
    ours = resampled_aucs(labels, scores, names, num_resamples=20, seed=3)
    np.testing.assert_allclose(
        ours, aucs_by_repeating_rows(labels, scores, names, 20, 3), rtol=0, atol=1e-12
    )


def test_without_users_rows_are_drawn() -> None:
    labels, _, scores = log(200, 1, seed=2)
    ours = resampled_aucs(labels, scores, None, num_resamples=10, seed=0)
    expected = aucs_by_repeating_rows(labels, scores, np.arange(200), 10, 0)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


def test_equal_scores_differ_by_nothing_and_the_draws_are_paired() -> None:
    labels, users, scores = log(500, 50, seed=3)
    assert paired_bootstrap(labels, scores, np.exp(scores), users, 50) == (0.0, 0.0, 0.0, 0.0)


def test_difference_has_the_sign_of_a_less_b_and_lies_in_its_interval() -> None:
    labels, users, scores = log(2000, 300, seed=4)
    noise = np.random.default_rng(5).normal(size=2000)
    difference = paired_bootstrap(labels, scores, noise, users, 200, seed=1)
    assert difference.value == auc(labels, scores) - auc(labels, noise)
    assert 0 < difference.low < difference.value < difference.high
    mirrored = paired_bootstrap(labels, noise, scores, users, 200, seed=1)
    assert mirrored == pytest.approx(
        (-difference.value, -difference.high, -difference.low, difference.standard_error)
    )


def test_standard_error_is_the_spread_over_fresh_test_sets_of_users() -> None:
    """Users whose rows share a score and a lean: rows alone would understate the error."""

    def sample(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        generator = np.random.default_rng(seed)
        users = np.repeat(np.arange(100), 10)
        lean = generator.normal(size=100)[users]
        labels = (generator.normal(size=1000) + 2 * lean > 0).astype(int)
        return labels, users, lean + generator.normal(size=100)[users]

    fresh = np.std([auc(labels, scores) for labels, _, scores in map(sample, range(400))])
    labels, users, scores = sample(1000)
    by_user = resampled_aucs(labels, scores, users, 400).std()
    by_row = resampled_aucs(labels, scores, None, 400).std()
    assert by_user == pytest.approx(fresh, rel=0.3)
    assert by_row < 0.6 * fresh


def test_refuses_what_cannot_be_resampled() -> None:
    labels, _, scores = log(50, 5, seed=6)
    with pytest.raises(ValueError, match="two users"):
        resampled_aucs(labels, scores, np.zeros(50))
    with pytest.raises(ValueError, match="num_resamples must be at least 2, got 1"):
        resampled_aucs(labels, scores, None, num_resamples=1)
    with pytest.raises(ValueError, match="both classes"):
        resampled_aucs(np.ones(50), scores, None)
