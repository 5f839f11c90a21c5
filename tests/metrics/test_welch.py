"""Welch's half-width against hand-made figures and its promise of 95%."""

import numpy as np
import pytest

from torchrec_gr.metrics import welch_half_width


def test_equal_variances_give_the_t_of_all_degrees() -> None:
    a, b = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]  # variance 0.01 each, 4 degrees of freedom
    assert welch_half_width(a, b) == pytest.approx(2.776 * np.sqrt(0.02 / 3))


def test_a_constant_sample_leaves_the_degrees_of_the_other() -> None:
    assert welch_half_width([0.1, 0.2, 0.3], [0.5, 0.5]) == pytest.approx(4.303 * np.sqrt(0.01 / 3))
    assert welch_half_width([0.5, 0.5], [0.4, 0.4]) == 0.0


def test_one_seed_says_nothing() -> None:
    assert welch_half_width([0.5], [0.1, 0.2, 0.3]) is None
    assert welch_half_width([0.1, 0.2], [0.5]) is None


@pytest.mark.parametrize("sizes", [(2, 2), (3, 3), (5, 3)])
def test_holds_the_true_difference_19_times_in_20(sizes: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        a, b = generator.normal(1.0, 0.5, sizes[0]), generator.normal(0.0, 1.0, sizes[1])
        half = welch_half_width(list(a), list(b))
        assert half is not None
        held += abs(a.mean() - b.mean() - 1.0) <= half
    assert 0.93 <= held / 2000 <= 0.99
