"""The report's plots as SVG: AUC and NE by epoch, quality against cost, training curves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from pipelines.reports.document import Figure
from pipelines.reports.drawing import Line, draw
from pipelines.results.artifacts import Curve, RunInfo
from pipelines.results.rows import RunKey, Variant
from pipelines.results.summary import VariantSummary

_MAX_POINTS = 200
_COLORS = {
    "none": "#000000",
    "full": "#e69f00",
    "sparse": "#56b4e9",
    "full-freeze": "#d55e00",
    "sparse-freeze": "#009e73",
    "full-thaw": "#cc79a7",
    "sparse-thaw": "#0072b2",
    "full-slow": "#b8a500",
    "sparse-slow": "#7f7f7f",
}
_FURTHER_COLORS = ("#332288", "#882255", "#44aa99", "#994f00")
_MARKERS = "osD^vPX*"
_GREY = "#999999"
_Item = TypeVar("_Item")


def auc_by_epoch(summaries: Sequence[VariantSummary], info: RunInfo) -> list[Figure]:
    """Test AUC after each epoch, a figure for each model and width, the baseline in all.

    Args:
        summaries: every variant; one of a single epoch is a point.
        info: names the baseline.

    Returns:
        The figures; none where no model was trained.
    """
    trained = [s for s in summaries if s.is_trained]
    baselines = [s for s in trained if s.is_of(info.baseline_model, info.baseline_strategy)]
    figures = []
    for (model, dim), group in _grouped(trained, lambda s: (s.variant.model, s.variant.dim)):
        lines = []
        for summary in baselines:
            if summary.variant.dim == dim and summary not in group:
                means = summary.mean_by_epoch("auc")
                lines.append(Line(*_points(means), _GREY, info.baseline_model, "--"))
        for summary, color in zip(group, _colors(s.variant for s in group), strict=True):
            means = summary.mean_by_epoch("auc")
            lines.append(Line(*_points(means), color, _label(summary.variant), marker="o"))
            seeds = Line(
                tuple(row.epoch for row in summary.rows),
                tuple(row.auc for row in summary.rows),
                color,
                style="",
                marker=".",
                alpha=0.4,
            )
            lines.append(seeds)
        title = title_of(model, dim)
        caption = f"{title}: test AUC after each epoch, mean over seeds; small dots are seeds."
        figures.append(
            draw(f"auc_by_epoch-{_slug(title)}", caption, ("epoch", "test AUC"), tuple(lines))
        )
    return figures


def all_by_epoch(
    trained: Sequence[VariantSummary], names: Mapping[Variant, str], colors: Mapping[Variant, str]
) -> list[Figure]:
    """Test AUC after each epoch, one figure with a line a variant.

    Args:
        trained: every variant that has epochs.
        names: what each is called.
        colors: of the variants to show.

    Returns:
        The figure; none where no variant has two epochs.
    """
    shown = [s for s in trained if s.variant in colors]
    if all(len(s.mean_by_epoch("auc")) < 2 for s in shown):
        return []
    lines = tuple(
        Line(
            *_points(s.mean_by_epoch("auc")),
            colors[s.variant],
            names[s.variant],
            marker="o",
        )
        for s in shown
    )
    caption = "Test AUC after each epoch, mean over seeds. Of many models the best are shown."
    axes = ("epoch", "test AUC")
    return [draw("auc_by_epoch", caption, axes, lines, names="at the end")]


def ne_by_epoch(summaries: Sequence[VariantSummary]) -> list[Figure]:
    """Test and training NE after each epoch, a figure for each model and width.

    Args:
        summaries: variants of which both are known.

    Returns:
        The figures.
    """
    figures = []
    for (model, dim), group in _grouped(summaries, lambda s: (s.variant.model, s.variant.dim)):
        lines = []
        for summary, color in zip(group, _colors(s.variant for s in group), strict=True):
            test, train = summary.mean_by_epoch("ne"), summary.mean_by_epoch("train_ne")
            lines.append(Line(*_points(test), color, _label(summary.variant), marker="o"))
            lines.append(Line(*_points(train), color, style=":", marker="."))
        title = title_of(model, dim)
        caption = (
            f"{title}: NE after each epoch, mean over seeds; solid on the test rows, dotted on "
            "rows that were trained on."
        )
        name = f"ne_by_epoch-{_slug(title)}"
        figures.append(draw(name, caption, ("epoch", "NE"), tuple(lines)))
    return figures


def auc_by_cost(summaries: Sequence[VariantSummary]) -> list[Figure]:
    """Test AUC against training seconds, a figure for each width.

    Args:
        summaries: every variant; those that took no training time are left out.

    Returns:
        The figures; none where no model was trained.
    """
    trained = [s for s in summaries if s.chosen[0].train_seconds > 0]
    figures = []
    for (dim,), group in _grouped(trained, lambda s: (s.variant.dim,)):
        models = list(dict.fromkeys(s.variant.model for s in group))
        lines = []
        for summary, color in zip(group, _colors(s.variant for s in group), strict=True):
            epochs = summary.mean_by_epoch("train_seconds"), summary.mean_by_epoch("auc")
            lines.append(
                Line(tuple(epochs[0].values()), tuple(epochs[1].values()), color, alpha=0.35)
            )
            cost = float(np.mean([row.train_seconds for row in summary.chosen]))
            quality = [row.auc for row in summary.chosen]
            lines.append(Line((cost, cost), (min(quality), max(quality)), color))
            marker = _MARKERS[models.index(summary.variant.model) % len(_MARKERS)]
            label = f"{summary.variant.model}, {_label(summary.variant)}"
            peak = (cost,), (float(np.mean(quality)),)
            lines.append(Line(*peak, color, label, "", marker))
        title = title_of("quality and cost", dim)
        caption = (
            f"{title}: test AUC against training seconds, pretraining counted. Pale lines are "
            "epochs, markers the chosen ones with the range over seeds."
        )
        axes = ("training seconds, pretraining counted", "test AUC")
        figures.append(draw(f"auc_by_cost-{_slug(title)}", caption, axes, tuple(lines), log_x=True))
    return figures


def training_curves(curves: Sequence[Curve], runs: Iterable[RunKey]) -> list[Figure]:
    """Training loss by step, a figure for each stage, model and width; of the lowest seed alone.

    Args:
        curves: as read from disk.
        runs: every run of the comparison, to name the curves; a curve of none keeps its own name.

    Returns:
        The figures; none where there are no curves.
    """
    known = {run.name: run for run in runs}
    seeds: dict[Variant, int] = {}
    for run in known.values():
        seeds[run.variant] = min(run.seed, seeds.get(run.variant, run.seed))

    def place(curve: Curve) -> tuple[str, str, int | None]:
        run = known.get(curve.name)
        return (curve.stage, run.variant.model, run.variant.dim) if run else (curve.stage, "", None)

    lowest = {RunKey(variant, seed).name for variant, seed in seeds.items()}
    shown = [curve for curve in curves if curve.name in lowest or curve.name not in known]
    figures = []
    for (stage, model, dim), group in _grouped(shown, place):
        spare = itertools.cycle(_FURTHER_COLORS)
        lines = []
        for curve in group:
            variant = known[curve.name].variant if curve.name in known else None
            color = (_COLORS.get(variant.strategy) if variant else None) or next(spare)
            label = _label(variant) if variant else curve.name
            lines.append(Line(_thinned(curve.steps), _thinned(curve.losses), color, label))
        title = ", ".join(word for word in (stage, title_of(model, dim)) if word)
        caption = f"{title}: training loss by step, averaged over neighbouring steps, one seed."
        name = f"loss-{_slug(title)}"
        figures.append(draw(name, caption, ("step", "training loss"), tuple(lines)))
    return figures


def _grouped(
    items: Sequence[_Item], place: Callable[[_Item], tuple[Any, ...]]
) -> list[tuple[tuple[Any, ...], list[_Item]]]:
    groups: dict[tuple[Any, ...], list[_Item]] = {}
    for item in items:
        groups.setdefault(place(item), []).append(item)
    return list(groups.items())


def _thinned(values: Iterable[float]) -> tuple[float, ...]:
    """At most _MAX_POINTS means of neighbouring values."""
    array = np.fromiter(values, np.float64)
    parts = np.array_split(array, min(len(array), _MAX_POINTS))
    return tuple(float(part.mean()) for part in parts)


def _points(by_epoch: dict[int, float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(by_epoch), tuple(by_epoch.values())


def _colors(variants: Iterable[Variant]) -> list[str]:
    """A colour a variant: its strategy's, or a spare one where that is taken."""
    spare = itertools.cycle(_FURTHER_COLORS)
    colors: list[str] = []
    for variant in variants:
        own = _COLORS.get(variant.strategy)
        colors.append(own if own and own not in colors else next(spare))
    return colors


def _label(variant: Variant) -> str:
    return ", ".join(word for word in (variant.strategy, variant.pretrain) if word)


def title_of(name: str, dim: int | None) -> str:
    """A model, or what is shown, with the width that it is of."""
    return f"{name}, dim {dim}" if dim else name


def _slug(title: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in title.replace(", ", "-"))
