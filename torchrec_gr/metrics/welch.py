"""How far chance in training (the seed) may have moved the difference of two means."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# The 97.5% point of Student's t, by degrees of freedom.
_T_975 = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    8: 2.306,
    10: 2.228,
    15: 2.131,
    30: 2.042,
    math.inf: 1.960,
}


def welch_half_width(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Half the 95% interval of mean(a) - mean(b), for independent samples of unequal variance.

    Args:
        a: one metric of one model, a value a seed.
        b: of the other model; the seeds need not be the same.

    Returns:
        The half-width; None where a sample has fewer than two values, which say nothing of spread.
    Source: Welch, "The generalization of 'Student's' problem" (1947). Degrees of freedom between
        two entries of the table are interpolated in their inverse, which errs on the wide side.
    """
    if min(len(a), len(b)) < 2:
        return None
    of_a = float(np.var(a, ddof=1)) / len(a)
    of_b = float(np.var(b, ddof=1)) / len(b)
    if of_a + of_b == 0.0:
        return 0.0
    degrees = (of_a + of_b) ** 2 / (of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1))
    inverse = [1.0 / known for known in reversed(_T_975)]
    t = float(np.interp(1.0 / degrees, inverse, list(reversed(_T_975.values()))))
    return t * math.sqrt(of_a + of_b)
