"""The fit against planted laws and against a plain search."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.scaling_law.power_law import (
    LARGEST_EXPONENT,
    LEAST_EXPONENT,
    PowerLaw,
    fit_power_law,
    predicted_from_the_others,
)

SIZES = np.array([3e3, 1e4, 3e4, 1e5, 3e5, 1e6])


@pytest.mark.parametrize(
    "planted",
    [
        PowerLaw(0.3695, 0.1420, 0.1915),  # GPSD's loss
        PowerLaw(5.0, 40.0, 0.5),
        PowerLaw(2.0, 3.0, 0.05),
        PowerLaw(0.0, 9.0, 0.1),
        PowerLaw(1.0, 1e5, 2.0),
    ],
)
def test_a_planted_law_is_found(planted: PowerLaw) -> None:
    law = fit_power_law(SIZES, planted.at(SIZES))
    assert law.exponent == pytest.approx(planted.exponent, rel=2e-3)
    assert law.floor == pytest.approx(planted.floor, rel=1e-2, abs=1e-2)
    assert law.factor == pytest.approx(planted.factor, rel=2e-2)
    assert law.rms_error(SIZES, planted.at(SIZES)) < 1e-6
    assert not law.is_at_edge


def test_no_plain_search_finds_a_smaller_error() -> None:
    rng = np.random.default_rng(0)
    losses = PowerLaw(4.0, 20.0, 0.3).at(SIZES) + rng.normal(0, 0.05, len(SIZES))
    law = fit_power_law(SIZES, losses)
    for exponent in np.geomspace(LEAST_EXPONENT, LARGEST_EXPONENT, 60):
        for floor in np.linspace(0, losses.min(), 60):
            x = SIZES**-exponent
            factor = max(float((losses - floor) @ x / (x @ x)), 0.0)
            other = PowerLaw(floor, factor, exponent)
            assert law.rms_error(SIZES, losses) <= other.rms_error(SIZES, losses) + 1e-9


def test_without_a_floor_it_is_a_line_of_logarithms() -> None:
    planted = PowerLaw(0.0, 12.0, 0.07)
    law = fit_power_law(SIZES, planted.at(SIZES), with_floor=False)
    assert law.floor == 0
    assert law.exponent == pytest.approx(0.07, rel=1e-3)
    assert law.factor == pytest.approx(12.0, rel=1e-3)


def test_a_loss_that_rises_has_no_law_but_its_mean() -> None:
    losses = np.linspace(5.0, 6.0, len(SIZES))
    law = fit_power_law(SIZES, losses)
    assert law.factor == 0
    assert law.floor == pytest.approx(5.5)


def test_a_straight_fall_ends_at_the_edge() -> None:
    """A fall by the logarithm alone is a power law of an exponent of nearly nothing."""
    law = fit_power_law(SIZES, 100.0 - 0.01 * np.log(SIZES))
    assert law.is_at_edge
    assert law.exponent == pytest.approx(LEAST_EXPONENT)


def test_each_is_predicted_from_the_others() -> None:
    planted = PowerLaw(3.0, 30.0, 0.4)
    losses = planted.at(SIZES)
    assert predicted_from_the_others(SIZES, losses) == pytest.approx(losses, rel=1e-3)
    spoilt = losses.copy()
    spoilt[-1] += 1.0
    assert predicted_from_the_others(SIZES, spoilt)[-1] == pytest.approx(losses[-1], rel=1e-3)


def test_the_error_of_a_fit() -> None:
    law = PowerLaw(1.0, 0.0, 0.5)
    assert law.rms_error(SIZES[:2], np.array([1.0, 3.0])) == pytest.approx(math.sqrt(2))


def test_points_that_fit_no_law() -> None:
    with pytest.raises(ValueError, match="at least 3 different sizes"):
        fit_power_law(SIZES[:2], np.ones(2))
    with pytest.raises(ValueError, match="at least 3 different sizes"):
        fit_power_law(np.full(4, 10.0), np.ones(4))
    with pytest.raises(ValueError, match="at least 2 different sizes"):
        fit_power_law(SIZES[:1], np.ones(1), with_floor=False)
    with pytest.raises(ValueError, match="sizes must be above 0"):
        fit_power_law(np.array([0.0, 1.0, 2.0]), np.ones(3))
