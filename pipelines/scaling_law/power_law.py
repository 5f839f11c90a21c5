"""Fits loss = E + B * N ** -b to the losses of models of N parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]

LEAST_EXPONENT, LARGEST_EXPONENT = 0.001, 3.0
_GRID = 101
_REFINEMENTS = 4


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """loss = floor + factor * N ** -exponent; the form of GPSD's fit, 2506.03699.

    Args:
        floor: E, which no size goes below; at least 0.
        factor: B, at least 0.
        exponent: b, between LEAST_EXPONENT and LARGEST_EXPONENT.
    """

    floor: float
    factor: float
    exponent: float

    def at(self, sizes: Floats) -> Floats:
        """The losses of models of these sizes."""
        return self.floor + self.factor * sizes**-self.exponent

    def rms_error(self, sizes: Floats, losses: Floats) -> float:
        """Root of the mean squared distance to the losses."""
        return float(np.sqrt(np.mean((self.at(sizes) - losses) ** 2)))

    @property
    def is_at_edge(self) -> bool:
        """Whether the exponent is one of the two that no fit goes past."""
        return bool(np.isclose(self.exponent, (LEAST_EXPONENT, LARGEST_EXPONENT), rtol=1e-3).any())


def fit_power_law(sizes: Floats, losses: Floats, *, with_floor: bool = True) -> PowerLaw:
    """The least squares fit: for each exponent of a grid the best E and B, then a finer grid.

    Args:
        sizes: [S] parameters, above 0.
        losses: [S].
        with_floor: False fits B * N ** -b alone.

    Raises:
        ValueError: fewer points than the law has parameters, or sizes that are not above 0.
    """
    sizes, losses = np.asarray(sizes, np.float64), np.asarray(losses, np.float64)
    needed = 3 if with_floor else 2
    if len(np.unique(sizes)) < needed or len(sizes) != len(losses):
        raise ValueError(f"a power law needs the losses of at least {needed} different sizes")
    if not (sizes > 0).all():
        raise ValueError("sizes must be above 0")
    middle = np.exp(np.log(sizes).mean())  # so that N ** -b is about 1, whatever b
    grid = np.geomspace(LEAST_EXPONENT, LARGEST_EXPONENT, _GRID)
    for _ in range(_REFINEMENTS):
        floors, factors, errors = _best_of_each(grid, sizes / middle, losses, with_floor)
        best = int(errors.argmin())
        law = PowerLaw(
            float(floors[best]), float(factors[best] * middle ** grid[best]), float(grid[best])
        )
        grid = np.geomspace(grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)], _GRID)
    return law


def predicted_from_the_others(sizes: Floats, losses: Floats) -> Floats:
    """[S] losses, each by the law fitted to all sizes but its own.

    Raises:
        ValueError: fewer than four sizes.
    """
    others = ~np.eye(len(sizes), dtype=bool)
    return np.array(
        [fit_power_law(sizes[rest], losses[rest]).at(sizes[~rest])[0] for rest in others]
    )


def _best_of_each(
    exponents: Floats, sizes: Floats, losses: Floats, with_floor: bool
) -> tuple[Floats, Floats, Floats]:
    """For each exponent the E >= 0 and B >= 0 of the least squared error, and that error."""
    x = sizes ** -exponents[:, None]
    mean_x, mean_loss = x.mean(axis=1), losses.mean()
    factors = (x * losses).sum(axis=1) / (x * x).sum(axis=1)
    floors = np.zeros_like(factors)
    if with_floor:
        centred = x - mean_x[:, None]
        slopes = (centred * losses).sum(axis=1) / (centred * centred).sum(axis=1)
        slopes = np.maximum(slopes, 0)  # a loss that does not fall has no law but its mean
        levels = mean_loss - slopes * mean_x
        floors = np.maximum(levels, 0)
        factors = np.where(levels > 0, slopes, factors)
    errors = ((floors[:, None] + factors[:, None] * x - losses) ** 2).sum(axis=1)
    return floors, factors, errors
