"""The report's parts by history length and by item frequency: every model on layers of the rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pipelines.evaluation.cold_rows import RowFacts
from pipelines.reports.document import EMPTY, Block, Figure, Heading, NamedBullets, Paragraph, Table
from pipelines.reports.drawing import Line, draw
from pipelines.reports.folder import Folder
from pipelines.reports.names import BASELINE_COLOR
from pipelines.reports.tables import baseline_name
from pipelines.results.resampling import FREQUENCY, HISTORY, layers, resample_groups
from pipelines.results.rows import Variant
from pipelines.results.summary import VariantSummary, chosen_rows, summarize


class _Layer(NamedTuple):
    """The models on some of the test rows."""

    title: str
    share: float
    summaries: Mapping[Variant, VariantSummary]


_SECTIONS = (
    (
        HISTORY,
        "By history length",
        "By how many events of the user a model may read",
        "events of the user that a model may read",
    ),
    (
        FREQUENCY,
        "By item frequency",
        "By how many training rows had the row's item as their candidate, 0 where it is new",
        "training rows with the row's item",
    ),
)


def strata_section(folder: Folder) -> Iterator[Block]:
    """The sections that compare a benchmark's models on layers of the test rows.

    Returns:
        Their blocks; none where no costs were measured, where no predictions are kept, and of what
        all rows have alike.
    """
    facts = RowFacts.load(folder.path)
    if facts is None or not folder.is_benchmark:
        return
    for of, title, words, axis in _SECTIONS:
        measured = _measure(folder, facts, of)
        if len(measured) < 2:
            continue
        baseline = baseline_name(folder.info)
        yield Heading(2, title)
        yield Paragraph(
            f"{words}. AUC within each layer of the test rows, mean over seeds; after it the "
            f"difference to {baseline} ± half its 95% interval, paired row by row and user by "
            "user. AUCs of different layers are of different rows: compare models, not layers."
        )
        yield _table(folder, measured)
        told = list(_told_apart(folder, measured))
        if told:
            yield Paragraph(f"Told apart from {baseline}, of the models that are trained:")
            yield NamedBullets(told)
        yield from _figure(folder, of, axis, measured)


def _measure(folder: Folder, facts: RowFacts, of: str) -> list[_Layer]:
    info, chosen = folder.info, chosen_rows(folder.rows)
    resampled = resample_groups(folder.path, chosen, of)
    measured = []
    for title, mask in layers(facts, of).items():
        there = {run: groups[title] for run, groups in resampled.items() if title in groups}
        rows = [dataclasses.replace(chosen[run], auc=found.auc) for run, found in there.items()]
        draws = {run: found.draws for run, found in there.items()}
        summaries = summarize(rows, draws, info.baseline_model, info.baseline_strategy)
        if summaries:
            by_variant = {s.variant: s for s in summaries}
            measured.append(_Layer(title, float(mask.mean()), by_variant))
    return measured


def _table(folder: Folder, measured: Sequence[_Layer]) -> Table:
    columns = ["model", *(f"{layer.title} ({layer.share:.0%} of rows)" for layer in measured)]
    rows = [
        [folder.names[s.variant], *(_cell(layer.summaries.get(s.variant)) for layer in measured)]
        for s in folder.ranked
        if any(s.variant in layer.summaries for layer in measured)
    ]
    return Table(columns, rows)


def _cell(summary: VariantSummary | None) -> str:
    spread = None if summary is None else summary.spread("auc")
    if summary is None or spread is None:
        return EMPTY
    less = summary.baseline
    if less is None:
        return f"{spread.mean:.4f}"
    half = "" if less.interval is None else f" ± {less.interval.high - less.value:.4f}"
    return f"{spread.mean:.4f}, {less.value:+.4f}{half}"


def _told_apart(folder: Folder, measured: Sequence[_Layer]) -> Iterator[tuple[str, str]]:
    """For each trained model, the layers in which it is better or worse than the baseline."""
    for trained in (s for s in folder.ranked if s.is_trained):
        of_verdict: dict[str, list[str]] = {}
        for layer in measured:
            found = layer.summaries.get(trained.variant)
            if found is not None and found.baseline is not None:
                of_verdict.setdefault(found.baseline.verdict, []).append(layer.title)
        words = [
            f"{v} at {', '.join(of_verdict[v])}" for v in ("better", "worse") if v in of_verdict
        ]
        if words:
            yield folder.names[trained.variant], f"{'; '.join(words)}."


def _figure(folder: Folder, of: str, axis: str, measured: Sequence[_Layer]) -> Iterator[Figure]:
    """The differences to the baseline, a line a model."""
    lines = []
    for variant, color in folder.colors.items():
        points = [
            (place, less.value, less.verdict in ("better", "worse"))
            for place, layer in enumerate(measured)
            if (found := layer.summaries.get(variant)) is not None
            and (less := found.baseline) is not None
        ]
        if points:
            lines.append(Line(*_xy(points), color, folder.names[variant]))
        for fill, told in (("full", True), ("none", False)):
            of_fill = [point for point in points if point[2] is told]
            if of_fill:
                lines.append(Line(*_xy(of_fill), color, style="", marker="o", fill=fill))
    if not lines:
        return
    baseline = baseline_name(folder.info)
    zero = Line((0.0, len(measured) - 1.0), (0.0, 0.0), BASELINE_COLOR, baseline, "--")
    yield draw(
        f"auc_by_{of}",
        f"Test AUC less that of {baseline}, by {axis}. A full dot is told apart from {baseline}, "
        "a hollow one is not. Of many models the best are shown, all are in the table.",
        (axis, f"AUC less {baseline}"),
        (zero, *lines),
        names="at the end",
        ticks=tuple(layer.title.replace(" or more", "+") for layer in measured),
    )


def _xy(points: Sequence[tuple[int, float, bool]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(x for x, _, _ in points), tuple(y for _, y, _ in points)
