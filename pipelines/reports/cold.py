"""The report's part on cold items and empty histories: every model on those rows alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pipelines.evaluation.cold_rows import GROUPS, RowFacts, rows_path
from pipelines.reports import tables
from pipelines.reports.document import Block, Heading, Paragraph
from pipelines.results.artifacts import RunInfo, load_predictions, predictions_path
from pipelines.results.rows import ResultRow, RunKey
from pipelines.results.summary import Resampled, chosen_rows, summarize
from torchrec_gr.metrics import resampled_aucs

_FEWEST = 50
"""Rows of a group from which on an AUC of it says anything."""

_Draws: TypeAlias = dict[str, npt.NDArray[np.float64]]


def cold_section(rows: Sequence[ResultRow], info: RunInfo, out_dir: Path) -> Iterator[Block]:
    """The section that compares the models on each group of rows.

    Args:
        rows: of `results.json`.
        info: names the baseline.
        out_dir: where predictions are looked for.

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
    resampled = _resample(rows, out_dir)
    for group, of_group in measured.items():
        if of_group:
            draws = {run: aucs[group] for run, aucs in resampled.items() if group in aucs}
            yield from _group(group, of_group, draws, info)


def _of_group(rows: Sequence[ResultRow], group: str) -> list[ResultRow]:
    """The rows that have the group's AUC, with it and its NE in the places of the whole's."""
    return [
        dataclasses.replace(row, auc=value, ne=row.metrics.get(f"ne_{group}"))
        for row in rows
        if (value := row.metrics.get(f"auc_{group}")) is not None
    ]


def _group(
    group: str, rows: Sequence[ResultRow], draws: Resampled, info: RunInfo
) -> Iterator[Block]:
    summaries = summarize(rows, draws, info.baseline_model, info.baseline_strategy)
    num_rows = rows[-1].metrics.get(f"rows_{group}") or 0.0
    yield Heading(3, f"{GROUPS[group]}: {num_rows:,.0f} rows")
    if num_rows < _FEWEST:
        yield Paragraph("Too few to compare models on; results.json has the figures.")
    else:
        yield tables.group_table(summaries, info)


def _resample(rows: Sequence[ResultRow], out_dir: Path) -> dict[RunKey, _Draws]:
    """By run, of the epoch that it is judged by, and group: [R] AUCs in the same draws of users."""
    if not rows_path(out_dir).exists():
        return {}
    facts_of = rows_path(out_dir).stat().st_mtime_ns
    resampled = {}
    for run, row in chosen_rows(rows).items():
        path = predictions_path(out_dir, run)
        if not path.exists():
            continue
        epoch, draws = _resample_file(out_dir, run, path.stat().st_mtime_ns, facts_of)
        if epoch == row.epoch:
            resampled[run] = draws
    return resampled


@functools.lru_cache(maxsize=1024)
def _resample_file(
    out_dir: Path, run: RunKey, modified: int, facts_modified: int
) -> tuple[int, _Draws]:
    predictions, facts = load_predictions(out_dir, run), RowFacts.load(out_dir)
    assert predictions is not None, "the caller saw the file"
    assert facts is not None, "the caller saw the file"
    labels, scores, users, source_rows, epoch = predictions
    draws = {}
    for group, mask in facts.groups(source_rows).items():
        of_users = None if users is None else users[mask]
        clusters = mask.sum() if of_users is None else np.unique(of_users).size
        if clusters > 1 and 0 < labels[mask].mean() < 1:
            draws[group] = resampled_aucs(labels[mask], scores[mask], of_users)
    return epoch, draws
