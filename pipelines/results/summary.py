"""From rows to statements: the epoch each run is judged at, differences, and verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from pipelines.results.resampling import Resampled
from pipelines.results.rows import ResultRow, RunKey, Variant
from torchrec_gr.metrics import welch_half_width
from torchrec_gr.metrics.bootstrap import paired_difference

SMALLEST_DIFFERENCE = 0.0015
"""A smaller difference of AUC is never called one: three seeds against three resolve no less."""

Verdict = Literal["better", "worse", "not told apart", "no verdict"]


class Spread(NamedTuple):
    """Mean over seeds, and standard deviation (None of one seed)."""

    mean: float
    deviation: float | None


class Interval(NamedTuple):
    """The two ends of a 95% interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """Mean AUC over seeds of one variant less that of another, and how sure it is.

    Args:
        value: the difference.
        seeds: 95% interval from the spread over seeds; None where one of the two has one seed.
        users: 95% interval from resampling the test set's users; None without predictions.
        interval: both sources of chance together; None where there is neither.
        verdict: "better" or "worse" if the interval leaves out 0 and the difference is at least
            SMALLEST_DIFFERENCE; "no verdict" without an interval.
    """

    value: float
    seeds: Interval | None
    users: Interval | None
    interval: Interval | None
    verdict: Verdict


class VariantSummary(NamedTuple):
    """A variant's rows, and those that it is judged by.

    Args:
        variant: what is compared.
        rows: every epoch of every seed.
        chosen: one row a seed: the epoch with the highest validation AUC (the earliest of equals;
            the last epoch where there is no validation set).
        baseline: difference to the baseline; None for the baseline itself and where it is missing.
        scratch: difference to the same model without transfer; None where it has no meaning.
    """

    variant: Variant
    rows: tuple[ResultRow, ...]
    chosen: tuple[ResultRow, ...]
    baseline: Difference | None = None
    scratch: Difference | None = None

    @property
    def is_trained(self) -> bool:
        """Whether any row is of an epoch (popularity has none)."""
        return any(row.epoch > 0 for row in self.rows)

    def is_of(self, model: str, strategy: str) -> bool:
        """Whether it is this model with this strategy, of any width."""
        return (self.variant.model, self.variant.strategy) == (model, strategy)

    def spread(self, name: str) -> Spread | None:
        """Of one metric, over the seeds that have it."""
        values = [v for v in (metric(row, name) for row in self.chosen) if v is not None]
        if not values:
            return None
        return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if values[1:] else None)

    def mean_by_epoch(self, name: str) -> dict[int, float]:
        """Mean of one metric over seeds, epoch by epoch."""
        values: dict[int, list[float]] = {}
        for row in self.rows:
            value = metric(row, name)
            if value is not None:
                values.setdefault(row.epoch, []).append(value)
        return {epoch: float(np.mean(values[epoch])) for epoch in sorted(values)}


def metric(row: ResultRow, name: str) -> float | None:
    """A field or further metric of a row; None where it has none."""
    return row.metrics[name] if name in row.metrics else getattr(row, name, None)


def summarize(
    rows: Iterable[ResultRow],
    resampled: Resampled,
    baseline_model: str = "dlrm",
    baseline_strategy: str = "none",
) -> list[VariantSummary]:
    """Judges every variant by its chosen epochs, peak against peak.

    Args:
        rows: of `results.json`.
        resampled: each run's AUC in the same draws of users, as `resample_runs` makes them; empty
            where no predictions are kept.
        baseline_model: `model` of the rows to compare with.
        baseline_strategy: their `strategy`.

    Returns:
        One summary a variant: by embedding width, the baseline first, then as they came.
    """
    by_variant: dict[Variant, list[ResultRow]] = {}
    for row in rows:
        by_variant.setdefault(row.variant, []).append(row)
    bare = {
        variant: VariantSummary(variant, tuple(of), tuple(chosen_rows(of).values()))
        for variant, of in by_variant.items()
    }

    def against(variant: Variant, model: str, strategy: str) -> Difference | None:
        other = counterpart(variant, bare, model, strategy)
        if other is None or other == variant:
            return None
        return difference(bare[variant].chosen, bare[other].chosen, resampled)

    summaries = [
        summary._replace(
            baseline=against(variant, baseline_model, baseline_strategy),
            scratch=None if variant.strategy == "none" else against(variant, variant.model, "none"),
        )
        for variant, summary in bare.items()
    ]
    return sorted(
        summaries,
        key=lambda s: (s.variant.dim or 0, not s.is_of(baseline_model, baseline_strategy)),
    )


def differences_to(
    other: VariantSummary, summaries: Iterable[VariantSummary], resampled: Resampled
) -> list[tuple[VariantSummary, Difference]]:
    """Every other trained variant of the same width, and its difference to this one."""
    return [
        (summary, difference(summary.chosen, other.chosen, resampled))
        for summary in summaries
        if summary.is_trained
        and summary.variant != other.variant
        and summary.variant.dim == other.variant.dim
    ]


def counterpart(
    variant: Variant, variants: Mapping[Variant, Any], model: str, strategy: str
) -> Variant | None:
    """The variant to compare with: of the same width, or the only one there is."""
    candidates = [other for other in variants if other[:2] == (model, strategy)]
    same_width = [other for other in candidates if other.dim == variant.dim]
    for group in (same_width, candidates):
        if len(group) == 1:
            return group[0]
    return None


def chosen_rows(rows: Iterable[ResultRow]) -> dict[RunKey, ResultRow]:
    """The epoch by which each run is judged: the highest validation AUC, the earliest of equals."""
    chosen: dict[RunKey, ResultRow] = {}
    for row in sorted(rows, key=lambda row: row.epoch):
        best = chosen.get(row.run)
        if (
            best is None
            or row.validation_auc is None
            or row.validation_auc > (best.validation_auc or 0.0)
        ):
            chosen[row.run] = row
    return chosen


def difference(
    rows: Sequence[ResultRow],
    others: Sequence[ResultRow],
    resampled: Resampled,
) -> Difference:
    """Mean AUC of `rows` less that of `others`, one row a seed, with what chance may have done.

    Two sources of chance are independent: training (the seed) and who is in the test set. Their
    half-widths are therefore joined as the root of their squares' sum.

    Args:
        rows: chosen epochs of one variant.
        others: chosen epochs of another; their seeds need not be the same.
        resampled: each run's AUC in the same draws of users.

    Returns:
        The difference with its intervals and verdict.
    """
    a, b = _aucs(rows), _aucs(others)
    value = float(np.mean(a) - np.mean(b))
    seeds_half = welch_half_width(a, b)
    draws_a = [resampled[row.run] for row in rows if row.run in resampled]
    draws_b = [resampled[row.run] for row in others if row.run in resampled]
    users = users_half = None
    if draws_a and draws_b:
        paired = paired_difference(value, np.mean(draws_a, axis=0) - np.mean(draws_b, axis=0))
        users, users_half = Interval(paired.low, paired.high), 1.96 * paired.standard_error
    halves = [half for half in (seeds_half, users_half) if half is not None]
    interval = _around(value, math.hypot(*halves)) if halves else None
    seeds = None if seeds_half is None else _around(value, seeds_half)
    return Difference(value, seeds, users, interval, _verdict(value, interval))


def _aucs(rows: Sequence[ResultRow]) -> list[float]:
    """A value a seed; what is not trained has the same for every seed, so its one counts twice."""
    return [row.auc for row in rows for _ in range(1 if row.epoch else 2)]


def _around(value: float, half: float) -> Interval:
    return Interval(value - half, value + half)


def _verdict(value: float, interval: Interval | None) -> Verdict:
    if interval is None:
        return "no verdict"
    if interval.low > 0.0 and value >= SMALLEST_DIFFERENCE:
        return "better"
    if interval.high < 0.0 and value <= -SMALLEST_DIFFERENCE:
        return "worse"
    return "not told apart"
