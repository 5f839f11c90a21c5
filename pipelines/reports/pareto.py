"""The report's part on quality against cost: which models nothing cheaper is as good as."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pipelines.reports.costs import median_ms
from pipelines.reports.document import Block, Figure, Heading, Paragraph
from pipelines.reports.drawing import Line, draw
from pipelines.reports.folder import Folder
from pipelines.reports.tables import count_in_words, ms_in_words, seconds_in_words
from pipelines.results.summary import VariantSummary

_ON_FRONT, _DOMINATED, _BASELINE = "#0b63c5", "#8b949e", "#1c2127"


class Point(NamedTuple):
    """A model by what it costs and how good it is."""

    name: str
    cost: float
    auc: float


class _Axis(NamedTuple):
    name: str
    words: str
    cost: Callable[[Folder, VariantSummary], float | None]
    in_words: Callable[[float], str]


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats: none is as good and cheaper, or better and as cheap.

    Returns:
        The cheapest first; of equals in both, all.
    """
    return sorted(
        (
            p
            for p in points
            if not any(
                (q.cost <= p.cost and q.auc > p.auc) or (q.cost < p.cost and q.auc >= p.auc)
                for q in points
            )
        ),
        key=lambda p: (p.cost, p.name),
    )


def pareto_section(folder: Folder) -> Iterator[Block]:
    """The section with a figure a cost; none where no costs were measured."""
    if not folder.is_benchmark:
        return
    figures: list[Figure] = []
    sentences = []
    for axis in _AXES:
        points = _points(folder, axis)
        if len(points) > 1:
            best = front(points)
            sentences.append(_in_words(axis, best, len(points)))
            figures.append(_figure(folder, axis, points, best))
    if figures:
        yield Heading(2, "Quality against cost")
        yield Paragraph(
            "On the front is a model that nothing cheaper equals, by means over seeds at the "
            "chosen epochs; neighbours on it need not be told apart: the verdicts say which are."
        )
        yield from map(Paragraph, sentences)
        yield from figures


def _points(folder: Folder, axis: _Axis) -> list[Point]:
    points = []
    for s in folder.summaries:
        cost, auc = axis.cost(folder, s), s.spread("auc")
        if cost is not None and cost > 0 and auc is not None:
            points.append(Point(folder.names[s.variant], cost, auc.mean))
    return points


def _in_words(axis: _Axis, best: Sequence[Point], count: int) -> str:
    named = "; ".join(f"{p.name} ({axis.in_words(p.cost)}, {p.auc:.4f})" for p in best)
    others = count - len(best)
    rest = f" The rest ({others}) are no better than something cheaper." if others else ""
    return f"On the front by {axis.words}: {named}.{rest}"


def _figure(folder: Folder, axis: _Axis, points: Sequence[Point], best: Sequence[Point]) -> Figure:
    shown = _worth_the_height(points)
    left_out = [p for p in points if p not in shown]
    in_front = [p for p in best if p in shown]
    lines = [Line(*_xy(in_front), _ON_FRONT, alpha=0.5)] if in_front else []
    baselines = {folder.names[s.variant] for s in folder.summaries if folder.is_baseline(s)}
    behind = sorted(
        (p for p in shown if p not in best), key=lambda p: (p.name not in baselines, -p.auc)
    )
    for p in [*in_front, *behind]:
        color = _ON_FRONT if p in best else _DOMINATED
        color = _BASELINE if p.name in baselines else color
        marker = "D" if p.name in baselines else "o"
        lines.append(Line((p.cost,), (p.auc,), color, p.name, "", marker))
    below = ""
    if left_out:
        named = ", ".join(f"{p.name} ({axis.in_words(p.cost)}, {p.auc:.4f})" for p in left_out)
        below = f" Below the figure: {named}."
    return draw(
        f"pareto-{axis.name}",
        f"Test AUC against {axis.words}. Blue: on the front. Grey: something is as good and "
        f"cheaper. Black diamond: the baseline. Names that would overlap are left out.{below}",
        (axis.words, "test AUC"),
        tuple(lines),
        log_x=True,
        names="beside",
    )


def _worth_the_height(points: Sequence[Point]) -> list[Point]:
    """The points less the lowest ones, each of which would more than double the figure's range."""
    ranked = sorted(points, key=lambda p: p.auc)
    while len(ranked) > 3 and ranked[1].auc - ranked[0].auc > ranked[-1].auc - ranked[1].auc:
        ranked = ranked[1:]
    return [p for p in points if p.auc >= ranked[0].auc]


def _xy(points: Sequence[Point]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(p.cost for p in points), tuple(p.auc for p in points)


def _mean(name: str) -> Callable[[Folder, VariantSummary], float | None]:
    def cost(folder: Folder, summary: VariantSummary) -> float | None:
        spread = summary.spread(name)
        return None if spread is None else spread.mean

    return cost


_AXES = (
    _Axis(
        "seconds",
        "training seconds, pretraining counted",
        _mean("train_seconds"),
        lambda value: f"{seconds_in_words(value)} s",
    ),
    _Axis(
        "flops",
        "training FLOPs, pretraining counted",
        _mean("train_flops"),
        lambda value: f"{count_in_words(value)} FLOPs",
    ),
    _Axis(
        "latency",
        "milliseconds for 100 candidates (median)",
        lambda folder, summary: median_ms(folder.cost_of(summary)),
        lambda value: f"{ms_in_words(value)} ms",
    ),
)
