"""Test rows in a few layers of one number: how much history a user has, how often an item came."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST = 6
"""Layers of a report's table."""

LEAST_SHARE = 0.01
"""Of the rows that each layer has at least."""


class Strata(NamedTuple):
    """Layers of a count, ascending, none of them empty.

    Args:
        lows: the lowest count of each; a layer ends where the next begins.
    """

    lows: tuple[int, ...]

    @classmethod
    def of(cls, values: NDArray[np.int64]) -> Strata:
        """Layers with round borders and about as many rows in each as those borders allow.

        From 0, 1, 2, 5, 10, 20, 50, ... the two neighbours with the fewest rows are joined until
        MOST are left, each with LEAST_SHARE of the rows. Nothing (0) is joined to something only
        where it has too few rows to stand alone.

        Args:
            values: [N] a count for each row; negative ones are unknown and in no layer.
        """
        known = values[values >= 0]
        ladder = [0] + [step * 10**power for power in range(18) for step in (1, 2, 5)]
        counts = np.histogram(known, [*ladder, np.iinfo(np.int64).max])[0]
        layers = [(low, int(n)) for low, n in zip(ladder, counts, strict=True) if n]
        least = LEAST_SHARE * known.size
        while len(layers) > 1 and (len(layers) > MOST or min(n for _, n in layers) < least):
            first = _to_join(layers, least)
            (low, n), (_, further) = layers[first : first + 2]
            layers[first : first + 2] = [(low, n + further)]
        return cls(tuple(low for low, _ in layers))

    @property
    def titles(self) -> tuple[str, ...]:
        """What each layer is called: "0", "1 to 4", "5 or more"."""
        ends = [low - 1 for low in self.lows[1:]]
        titles = [
            str(low) if low == end else f"{low:,} to {end:,}"
            for low, end in zip(self.lows, ends, strict=False)
        ]
        return (*titles, *(f"{low:,} or more" for low in self.lows[-1:]))

    def masks(self, values: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
        """[N] for each layer, by its title: which of these rows are in it."""
        place = np.searchsorted(self.lows, values, side="right") - 1
        return {title: place == layer for layer, title in enumerate(self.titles)}


def _to_join(layers: list[tuple[int, int]], least: float) -> int:
    """The first of the two neighbours that become one."""
    pairs = range(len(layers) - 1)
    small = [i for i, (_, n) in enumerate(layers) if n < least]
    if small:
        pairs_of_small = {i for i in pairs if {i, i + 1} & set(small)}
        return min(pairs_of_small, key=lambda i: layers[i][1] + layers[i + 1][1])
    first = 1 if layers[0][0] == 0 else 0
    return min(pairs[first:], key=lambda i: layers[i][1] + layers[i + 1][1])
