"""The report of the scaling study: losses by size, the fitted power law, how far to trust it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from pipelines.reports.document import (
    Block,
    Bullets,
    Figure,
    Heading,
    Paragraph,
    Table,
    to_markdown,
)
from pipelines.reports.drawing import Line, draw
from pipelines.results.rows import write_atomically
from pipelines.scaling_law.power_law import (
    Floats,
    PowerLaw,
    fit_power_law,
    predicted_from_the_others,
)
from pipelines.scaling_law.results import ScalingResults, ScalingRow

REPORT_FILE = "report.md"
FIGURE = "scaling"
LEAST_SIZES = 4
_NUM_RESAMPLES = 500
_BLUE, _ORANGE, _BLACK = "#0072b2", "#d55e00", "#000000"


@dataclasses.dataclass(frozen=True)
class _Study:
    """The lowest held-out loss of each finished size, and what was made of them.

    Args:
        rows: [S], the fewest weights first.
        sizes, losses: [S].
        resampled: [R, S], the losses of users drawn anew, the same users for all sizes.
        law, law_without_floor: fitted to the losses.
        resampled_laws: fitted to each of the resampled.
        predicted: [S], from the other sizes.
        unfinished: sizes whose lowest loss is that of the last epoch.
    """

    rows: Sequence[ScalingRow]
    sizes: Floats
    losses: Floats
    resampled: Floats
    law: PowerLaw
    law_without_floor: PowerLaw
    resampled_laws: Sequence[PowerLaw]
    predicted: Floats
    unfinished: Sequence[str]


def write_scaling_report(results: ScalingResults) -> str:
    """Writes report.md and, as soon as there are four sizes, scaling.svg; gives the report."""
    blocks = list(_document(results))
    for block in blocks:
        if isinstance(block, Figure):
            write_atomically(results.out / f"{block.name}.svg", block.svg.encode())
    report = to_markdown(blocks, figures=".")
    write_atomically(results.out / REPORT_FILE, report.encode())
    return report


def _document(results: ScalingResults) -> Iterator[Block]:
    of_sizes = results.finished()
    chosen = [min(rows, key=lambda row: row.held_out_loss) for rows in of_sizes]
    training = results.settings.training
    yield Heading(1, f"Scaling of next-item loss on {training.data}")
    yield Paragraph(
        "The loss is that of each user's held-out event (the last but one where the last is the "
        "test) under the softmax over the whole catalogue, mean over users; nothing is sampled. "
        f"Every size trained {training.epochs} epochs from one seed; of its evaluations, every "
        f"{training.evaluate_every} epochs, the lowest counts. The test events were not looked at."
    )
    yield _evaluations(of_sizes)
    if len(chosen) < LEAST_SIZES:
        yield Paragraph(f"{len(chosen)} sizes are finished; a law is fitted to {LEAST_SIZES}.")
        return
    study = _study(results, chosen)
    yield Heading(2, "Power law")
    yield Figure(FIGURE, _figure(study).svg, _figure(study).caption)
    yield _points(study)
    yield Bullets([*_findings(study)])
    yield Paragraph(
        "Intervals are 95%, of users drawn anew, the same for all sizes; what another seed of "
        "training would change is not in them. N counts the weights that multiply tokens: those of "
        "the trunk and of the projections between it and the item table's width. The table, the "
        "vectors of positions and the tables of relative positions do not count."
    )


def _study(results: ScalingResults, rows: Sequence[ScalingRow]) -> _Study:
    sizes = np.array([row.num_non_embedding for row in rows], np.float64)
    of_users = np.stack([results.losses(row) for row in rows], axis=1).astype(np.float64)
    of_users = of_users[~np.isnan(of_users).any(axis=1)]
    losses = of_users.mean(axis=0)
    rng = np.random.default_rng(0)
    num_users = len(of_users)
    resampled = np.stack(
        [
            of_users[rng.integers(num_users, size=num_users)].mean(axis=0)
            for _ in range(_NUM_RESAMPLES)
        ]
    )
    return _Study(
        rows,
        sizes,
        losses,
        resampled,
        fit_power_law(sizes, losses),
        fit_power_law(sizes, losses, with_floor=False),
        [fit_power_law(sizes, drawn) for drawn in resampled],
        predicted_from_the_others(sizes, losses),
        [row.size for row in rows if row.epoch == results.settings.training.epochs],
    )


def _evaluations(of_sizes: Sequence[Sequence[ScalingRow]]) -> Table:
    epochs = sorted({row.epoch for rows in of_sizes for row in rows})
    lines = []
    for rows in of_sizes:
        by_epoch = {row.epoch: f"{row.held_out_loss:.4f}" for row in rows}
        lines.append(
            [
                rows[0].size,
                f"{rows[0].num_non_embedding:,}",
                f"{rows[0].num_dense:,}",
                f"{max(row.minutes for row in rows):.1f}",
                *(by_epoch.get(epoch, "-") for epoch in epochs),
            ]
        )
    names = ["size", "N", "all but the item table", "minutes"]
    return Table([*names, *(f"epoch {epoch}" for epoch in epochs)], lines)


def _points(study: _Study) -> Table:
    low, high = np.percentile(study.resampled, [2.5, 97.5], axis=0)
    fitted = study.law.at(study.sizes)
    columns = ["size", "N", "epoch", "held-out loss", "interval", "fitted", "from the others"]
    lines = [
        [
            row.size,
            f"{row.num_non_embedding:,}",
            str(row.epoch),
            f"{study.losses[i]:.4f}",
            f"{low[i]:.4f} to {high[i]:.4f}",
            f"{fitted[i]:.4f}",
            f"{study.predicted[i]:.4f}",
        ]
        for i, row in enumerate(study.rows)
    ]
    return Table(columns, lines)


def _findings(study: _Study) -> Iterator[str]:
    law, bare = study.law, study.law_without_floor
    intervals = {
        name: np.percentile([getattr(drawn, name) for drawn in study.resampled_laws], [2.5, 97.5])
        for name in ("floor", "exponent")
    }
    spans = {name: f"{low:.4f} to {high:.4f}" for name, (low, high) in intervals.items()}
    span = study.sizes[-1] / study.sizes[0]
    yield f"N spans a factor of {span:.0f}, from {study.sizes[0]:,.0f} to {study.sizes[-1]:,.0f}."
    yield (
        f"{_in_words(law)}; RMS error of the fit {law.rms_error(study.sizes, study.losses):.4f}; "
        f"E {spans['floor']}, b {spans['exponent']}."
    )
    yield (
        f"Without a floor: {_in_words(bare)}; RMS error "
        f"{bare.rms_error(study.sizes, study.losses):.4f}."
    )
    errors = study.predicted - study.losses
    yield (
        f"Each size from the others: RMS error {np.sqrt(np.mean(errors**2)):.4f}; the largest from "
        f"the smaller ones: {study.predicted[-1]:.4f} against {study.losses[-1]:.4f} measured, "
        f"{errors[-1]:+.4f}."
    )
    rises = [
        f"{larger.size} than {smaller.size}"
        for smaller, larger in itertools.pairwise(study.rows)
        if larger.held_out_loss > smaller.held_out_loss
    ]
    if rises:
        yield f"The loss does not fall with every step in size: higher in {', '.join(rises)}."
    if study.unfinished:
        yield (
            f"At the last epoch the loss was still falling in {', '.join(study.unfinished)}: their "
            "points, and the law, are of this length of training, not of the size alone."
        )
    if law.factor == 0:
        yield "No law: the loss does not fall with size."
    elif law.is_at_edge or intervals["floor"][0] <= 0:
        yield (
            "E is not identified: these sizes do not tell a floor from a slower fall without one. "
            "Take the curve as a summary of the sizes measured, not as a forecast."
        )


def _in_words(law: PowerLaw) -> str:
    return f"loss = {law.floor:.4f} + {law.factor:.4f} N^-{law.exponent:.4f}"


def _figure(study: _Study) -> Figure:
    low, high = np.percentile(study.resampled, [2.5, 97.5], axis=0)
    dense = np.geomspace(study.sizes[0] / 1.5, study.sizes[-1] * 1.5, 100)
    lines = [
        Line((size, size), (low[i], high[i]), _BLACK) for i, size in enumerate(study.sizes.tolist())
    ]
    lines.append(Line(tuple(study.sizes), tuple(study.losses), _BLACK, "measured", "", "o"))
    for law, color, style in ((study.law, _BLUE, "-"), (study.law_without_floor, _ORANGE, "--")):
        lines.append(Line(tuple(dense), tuple(law.at(dense)), color, _in_words(law), style))
    caption = "Held-out next-item loss by size with 95% intervals, and the fitted power laws."
    axes = ("non-embedding parameters", "held-out next-item loss")
    return draw(FIGURE, caption, axes, tuple(lines), log_x=True)
