"""Whether a benchmark has fallen behind an earlier one by more than chance explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipelines.results.rows import ResultRow, Variant
from pipelines.results.summary import SMALLEST_DIFFERENCE, chosen_rows, metric
from torchrec_gr.metrics import welch_half_width

_SIGNS: Mapping[str, int] = {"auc": 1, "gauc": 1, "ne": -1, "log_loss": -1}
"""Metrics that are held against the earlier ones: 1 where higher is better."""


class Regression(NamedTuple):
    """A metric of a variant that is worse than it was, or a variant that is no longer there.

    Args:
        variant: whose.
        metric: which; None for a variant that is missing.
        now: mean over seeds at the chosen epochs; None for a variant that is missing.
        earlier: likewise, of the earlier results.
        band: the difference that chance explains, or that is too small to matter.
    """

    variant: Variant
    metric: str | None = None
    now: float | None = None
    earlier: float | None = None
    band: float | None = None

    def __str__(self) -> str:
        if self.metric is None or self.now is None or self.earlier is None or self.band is None:
            return f"{self.variant}: it is in the earlier results and missing now"
        moved = "fell" if _SIGNS[self.metric] > 0 else "rose"
        return (
            f"{self.variant}: {self.metric} {moved} from {self.earlier:.4f} to {self.now:.4f}, by "
            f"{abs(self.now - self.earlier):.4f}, more than its noise band of {self.band:.4f}"
        )


def regressions(rows: Sequence[ResultRow], earlier: Sequence[ResultRow]) -> list[Regression]:
    """Every metric that is worse than in earlier results by more than its noise band.

    The band is half the 95% interval that both sides' seeds allow for the difference of their means
    (Welch's), and at least SMALLEST_DIFFERENCE; where a side has one seed, it is that alone.

    Args:
        rows: of `results.json` now.
        earlier: of another one, of the same data and settings.

    Returns:
        In the order of the earlier results: for each variant AUC, GAUC, NE and log loss at the
        chosen epochs, each where both have it, and variants that are missing now.

    Raises:
        ValueError: there is nothing to hold the rows against.
    """
    if not earlier:
        raise ValueError("the earlier results are empty: name a results.json that has rows")
    now_by_variant, earlier_by_variant = _by_variant(rows), _by_variant(earlier)
    found = []
    for variant, before in earlier_by_variant.items():
        if variant not in now_by_variant:
            found.append(Regression(variant))
            continue
        for name, sign in _SIGNS.items():
            now, then = _values(now_by_variant[variant], name), _values(before, name)
            if not now or not then:
                continue
            band = max(SMALLEST_DIFFERENCE, welch_half_width(now, then) or 0.0)
            means = float(np.mean(now)), float(np.mean(then))
            if sign * (means[1] - means[0]) > band:
                found.append(Regression(variant, name, *means, band))
    return found


def _by_variant(rows: Sequence[ResultRow]) -> dict[Variant, list[ResultRow]]:
    chosen: dict[Variant, list[ResultRow]] = {}
    for row in chosen_rows(rows).values():
        chosen.setdefault(row.variant, []).append(row)
    return chosen


def _values(rows: Sequence[ResultRow], name: str) -> list[float]:
    return [value for row in rows if (value := metric(row, name)) is not None]
