"""The report's part on cold items and empty histories: every model on those rows alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.evaluation.cold_rows import GROUPS
from pipelines.reports import tables
from pipelines.reports.document import Block, Heading, Paragraph
from pipelines.results.artifacts import RunInfo
from pipelines.results.resampling import Resampled, resample_groups
from pipelines.results.rows import ResultRow
from pipelines.results.summary import chosen_rows, summarize

_FEWEST = 50
"""Rows of a group from which on an AUC of it says anything."""


def cold_section(
    rows: Sequence[ResultRow], info: RunInfo, out_dir: Path, names: tables.Names = None
) -> Iterator[Block]:
    """The section that compares the models on each group of rows.

    Args:
        rows: of `results.json`.
        info: names the baseline.
        out_dir: where predictions are looked for.
        names: what the variants are called.

    Returns:
        Its blocks; none where no group was measured.
    """
    measured = {group: _of_group(rows, group) for group in GROUPS}
    if not any(measured.values()):
        return
    yield Heading(2, "Cold items and empty histories")
    yield Paragraph(
        "The same runs at the same epochs, on test rows apart: by how many training rows had the "
        "row's item as their candidate, and where the user has no history to read. A group's NE is "
        "over the entropy of its own mean label. The differences are paired, row by row and user "
        "by user, as those above."
    )
    resampled = resample_groups(out_dir, chosen_rows(rows))
    for group, of_group in measured.items():
        if of_group:
            draws = {run: of[group].draws for run, of in resampled.items() if group in of}
            yield from _group(group, of_group, draws, info, names)


def _of_group(rows: Sequence[ResultRow], group: str) -> list[ResultRow]:
    """The rows that have the group's AUC, with it and its NE in the places of the whole's."""
    return [
        dataclasses.replace(row, auc=value, ne=row.metrics.get(f"ne_{group}"))
        for row in rows
        if (value := row.metrics.get(f"auc_{group}")) is not None
    ]


def _group(
    group: str, rows: Sequence[ResultRow], draws: Resampled, info: RunInfo, names: tables.Names
) -> Iterator[Block]:
    summaries = summarize(rows, draws, info.baseline_model, info.baseline_strategy)
    num_rows = rows[-1].metrics.get(f"rows_{group}") or 0.0
    yield Heading(3, f"{GROUPS[group]}: {num_rows:,.0f} rows")
    if num_rows < _FEWEST:
        yield Paragraph("Too few to compare models on; results.json has the figures.")
    else:
        yield tables.group_table(summaries, info, names)
