"""From each epoch's NE to statements: does it drop, are the ids what overfits, what stops it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from pipelines.results.rows import ResultRow, Variant
from pipelines.results.summary import Interval, VariantSummary, metric
from torchrec_gr.metrics import welch_half_width

SMALLEST_RISE = 0.002
"""A smaller rise of NE is never called one: a five-hundredth of what predicting the mean costs."""

Drop = Literal["yes", "no", "not told", "no verdict"]
Overfitting = Literal["yes", "likely", "of other tables", "in part", "no", "not shown"]
Effect = Literal["stops it", "flat but worse", "lessens it", "deepens it", "not told", "no verdict"]


class Estimate(NamedTuple):
    """A mean over seeds, its 95% interval (None of one seed), and the values it is of, if any."""

    mean: float
    interval: Interval | None
    values: tuple[float, ...] = ()

    def less(self, other: Estimate, factor: float = 1.0) -> Estimate:
        """The mean less `factor` times another's, whose seeds need not be the same."""
        return _estimate(self.values, [factor * v for v in other.values])._replace(values=())

    @property
    def is_above(self) -> bool:
        """Whether the interval lies above 0 and the mean is no trifle."""
        return self.interval is not None and self.interval.low > 0 and self.mean >= SMALLEST_RISE

    @property
    def is_below(self) -> bool:
        """Whether the interval lies below 0 and the mean is no trifle."""
        return self.interval is not None and self.interval.high < 0 and self.mean <= -SMALLEST_RISE


class Course(NamedTuple):
    """How a variant's NE goes on from each seed's best epoch to the last.

    Args:
        variant: whose.
        best: each seed's epoch with the lowest NE on the validation split (the earliest of
            equals), or on the test split where there is no validation.
        last: the last epoch.
        lowest: test NE at the best epoch.
        rise: of the test NE from the best epoch to the last.
        fall: of the training NE over the same epochs.
        rare_gap: how much more the gap between test and training NE widens over them on rows whose
            ids were rarely seen than on those whose ids were often; None without buckets.
        frozen: tables that did not train.
        chose_on_test: whether a validation split was wanting.
    """

    variant: Variant
    best: tuple[int, ...]
    last: int
    lowest: Estimate
    rise: Estimate
    fall: Estimate
    rare_gap: Estimate | None
    frozen: tuple[str, ...]
    chose_on_test: bool

    @property
    def drop(self) -> Drop:
        """Whether the test NE rises for certain while the training NE falls for certain."""
        if self.rise.interval is None or self.fall.interval is None:
            return "no verdict"
        if self.rise.is_above and self.fall.is_above:
            return "yes"
        highest = min(self.rise.interval.high, self.fall.interval.high)
        return "no" if highest < SMALLEST_RISE else "not told"


class FrozenTables(NamedTuple):
    """The same transfer with tables frozen and not: what the tables' training has to do with it.

    Args:
        frozen, trained: the two; `trained` drops.
        excess: the frozen one's rise less half of the other's.
    """

    frozen: Course
    trained: Course
    excess: Estimate


def measured(summaries: Iterable[VariantSummary]) -> list[VariantSummary]:
    """One model's variants, by what there is to follow: runs measured in each of all epochs.

    Runs that are not as far as the model's others, or have epochs without these metrics, are left
    out, and so are variants without any other; nothing is left of a single epoch.
    """
    known = [s for s in summaries if any(_has([row], "ne", "train_ne") for row in s.rows)]
    last = max((row.epoch for s in known for row in s.rows), default=0)
    kept: list[VariantSummary] = []
    for summary in known if last > 1 else []:
        runs: dict[int, list[ResultRow]] = {}
        for row in sorted(summary.rows, key=lambda row: row.epoch):
            runs.setdefault(row.seed, []).append(row)
        whole = [rows for rows in runs.values() if _is_whole(rows, last)]
        if whole:
            kept.append(summary._replace(rows=tuple(row for rows in whole for row in rows)))
    return kept


def course(summary: VariantSummary) -> Course:
    """Follows the NE of a variant that `measured` gives."""
    last = max(row.epoch for row in summary.rows)
    ends = [row for row in summary.rows if row.epoch == last]
    runs = [[row for row in summary.rows if row.seed == end.seed] for end in ends]
    validated = _has(summary.rows, "validation_ne")
    choose_by = "validation_ne" if validated else "ne"
    best = [min(rows, key=lambda row: _value(row, choose_by)) for rows in runs]
    spans = list(zip(best, ends, strict=True))
    gaps = None
    if _has(summary.rows, *_BY_BUCKET):
        gaps = _estimate([_widens(*span, "rarely") - _widens(*span, "often") for span in spans])
    return Course(
        variant=summary.variant,
        best=tuple(row.epoch for row in best),
        last=last,
        lowest=_estimate([_value(row, "ne") for row in best]),
        rise=_estimate([_value(end, "ne") - _value(row, "ne") for row, end in spans]),
        fall=_estimate([_value(row, "train_ne") - _value(end, "train_ne") for row, end in spans]),
        rare_gap=gaps,
        frozen=ends[-1].frozen,
        chose_on_test=not validated,
    )


def frozen_tables(courses: Iterable[Course]) -> FrozenTables | None:
    """The pair of one model that tells most: "sparse" before "full", against its unfrozen twin.

    A frozen strategy whose twin did not run is held against "none". A twin that does not drop
    leaves nothing for freezing to have done.
    """
    known = {(c.variant.strategy, c.variant.pretrain): c for c in courses}
    scratch = known.get(("none", None))
    for how in ("sparse", "full"):
        for (strategy, pretrain), frozen in known.items():
            trained = known.get((how, pretrain), scratch)
            if strategy == f"{how}-freeze" and trained is not None and trained.drop == "yes":
                return FrozenTables(frozen, trained, frozen.rise.less(trained.rise, 0.5))
    return None


def overfitting(scratch: Course, tables: FrozenTables | None) -> Overfitting:
    """Whether ids overfitting is what makes the NE of a model without transfer drop.

    Two signs. Rare ids: the gap between test and training NE widens more on rows whose ids were
    rarely seen, which have few labels to learn by heart; a network that learns rows by heart
    without their ids widens it on all alike. Frozen tables: with tables frozen the rise is under
    half of what it is when they train. "yes" takes both. Where rare ids show and frozen tables
    refute it, it can be the ids of tables that trained on alone: "of other tables".
    """
    of_rare_ids = scratch.rare_gap is not None and scratch.rare_gap.is_above
    if tables is not None and tables.excess.is_below:
        return "yes" if of_rare_ids else "in part"
    if tables is not None and tables.excess.is_above:
        return "of other tables" if of_rare_ids else "no"
    return "likely" if of_rare_ids else "not shown"


def effect(of: Course, scratch: Course) -> Effect:
    """What a strategy does to the drop of the same model without transfer, which has one.

    It stops it if no drop of its own is certain, and the rise is under a tenth of that one's, or
    under half with an interval that reaches 0. "flat but worse": so it is, at a test NE above the
    lowest without transfer.
    """
    share = of.rise.mean / scratch.rise.mean
    if of.rise.interval is None or scratch.rise.interval is None:
        return "no verdict"
    is_flat = share < 0.1 or (of.rise.interval.low <= 0 and share < 0.5)
    if is_flat and of.drop != "yes":
        return "flat but worse" if of.lowest.less(scratch.lowest).is_above else "stops it"
    change = of.rise.less(scratch.rise)
    if change.is_below:
        return "lessens it"
    return "deepens it" if change.is_above else "not told"


_BY_BUCKET = ("ne_rarely", "ne_often", "train_ne_rarely", "train_ne_often")


def _estimate(values: Sequence[float], others: Sequence[float] = (0.0, 0.0)) -> Estimate:
    """The mean of `values` less that of `others`; by default, less nothing."""
    mean = float(np.mean(values) - np.mean(others))
    half = welch_half_width(values, others)
    interval = None if half is None else Interval(mean - half, mean + half)
    return Estimate(mean, interval, tuple(values))


def _widens(best: ResultRow, end: ResultRow, bucket: str) -> float:
    """How much the gap between test and training NE of a bucket widens between two epochs."""
    at_best, at_end = (
        _value(row, f"ne_{bucket}") - _value(row, f"train_ne_{bucket}") for row in (best, end)
    )
    return at_end - at_best


def _is_whole(rows: Sequence[ResultRow], last: int) -> bool:
    return [row.epoch for row in rows] == list(range(1, last + 1)) and _has(rows, "ne", "train_ne")


def _has(rows: Sequence[ResultRow], *names: str) -> bool:
    return all(metric(row, name) is not None for row in rows for name in names)


def _value(row: ResultRow, name: str) -> float:
    value = metric(row, name)
    assert value is not None, "the caller asked for it"
    return value
