"""Each run's AUC in the same draws of test users, on all rows and on groups of them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pipelines.evaluation.cold_rows import RowFacts, rows_path
from pipelines.evaluation.strata import Strata
from pipelines.results.artifacts import Predictions, load_predictions, predictions_path
from pipelines.results.rows import ResultRow, RunKey
from torchrec_gr.metrics import auc, resampled_aucs

Resampled: TypeAlias = Mapping[RunKey, npt.NDArray[np.float64]]
"""Each run's AUC in the same draws of test users, [R] each, as `resample_runs` makes them."""

HISTORY, FREQUENCY = "history", "frequency"
"""What rows are layered by: events that the user has, training rows that the item has."""


class OfGroup(NamedTuple):
    """A run's AUC on some of the test rows, and in each draw of their users, [R]."""

    auc: float
    draws: npt.NDArray[np.float64]


def resample_runs(
    out_dir: Path, chosen: Mapping[RunKey, ResultRow]
) -> dict[RunKey, npt.NDArray[np.float64]]:
    """Each run's AUC in the same draws of test users, for runs whose predictions are kept.

    Predictions of another epoch than the chosen one are passed over. A file that has not changed
    is read once a process.

    Args:
        out_dir: the comparison's folder.
        chosen: each run's row.

    Returns:
        [R] AUCs by run.

    Raises:
        ValueError: predictions that are damaged, of other rows than another run's, or of another
            AUC than `results.json` says.
    """
    resampled: dict[RunKey, npt.NDArray[np.float64]] = {}
    test_set: tuple[str, Path] | None = None
    for run, row in chosen.items():
        path = predictions_path(out_dir, run)
        if not path.exists():
            continue
        of_file = _resample_file(out_dir, run, path.stat().st_mtime_ns)
        if of_file.epoch != row.epoch:
            continue
        if abs(of_file.auc - row.auc) > 1e-6:
            raise ValueError(
                f"{path} has AUC {of_file.auc:.6f} at epoch {row.epoch}, results.json says "
                f"{row.auc:.6f}: they are of different runs; delete the file and run again"
            )
        test_set = test_set or (of_file.test_set, path)
        if of_file.test_set != test_set[0]:
            raise ValueError(
                f"{path} and {test_set[1]} score different rows, labels or users: one comparison "
                "has one test set; use another --out for another split"
            )
        resampled[run] = of_file.aucs
    return resampled


def resample_groups(
    out_dir: Path, chosen: Mapping[RunKey, ResultRow], of: str = ""
) -> dict[RunKey, dict[str, OfGroup]]:
    """As `resample_runs`, on groups of rows instead of all.

    Args:
        out_dir: the comparison's folder.
        chosen: each run's row.
        of: "" for the groups of `RowFacts.groups`; HISTORY or FREQUENCY for the layers of `layers`.

    Returns:
        By run and group; a group of one class or one user is left out.

    Raises:
        ValueError: predictions that are damaged, or of rows that nothing is known of.
    """
    if not rows_path(out_dir).exists():
        return {}
    facts_of = rows_path(out_dir).stat().st_mtime_ns
    resampled = {}
    for run, row in chosen.items():
        path = predictions_path(out_dir, run)
        if path.exists():
            modified = path.stat().st_mtime_ns
            epoch, groups = _resample_groups_of_file(out_dir, run, of, modified, facts_of)
            if epoch == row.epoch:
                resampled[run] = groups
    return resampled


def layers(facts: RowFacts, of: str) -> dict[str, npt.NDArray[np.bool_]]:
    """[N] for each layer of the rows by HISTORY or FREQUENCY, by its title; none: unknown."""
    values = facts.num_history if of == HISTORY else facts.item_counts
    return Strata.of(values).masks(values)


class _ResampledFile(NamedTuple):
    epoch: int
    auc: float
    test_set: str
    aucs: npt.NDArray[np.float64]


@functools.lru_cache(maxsize=1024)
def _resample_file(out_dir: Path, run: RunKey, modified: int) -> _ResampledFile:
    predictions = load_predictions(out_dir, run)
    assert predictions is not None, "the caller saw the file"
    labels, scores, user_ids, _, epoch = predictions
    return _ResampledFile(
        epoch,
        auc(labels, scores),
        _fingerprint(predictions),
        resampled_aucs(labels, scores, user_ids),
    )


@functools.lru_cache(maxsize=4096)
def _resample_groups_of_file(
    out_dir: Path, run: RunKey, of: str, modified: int, facts_modified: int
) -> tuple[int, dict[str, OfGroup]]:
    predictions, facts = load_predictions(out_dir, run), RowFacts.load(out_dir)
    assert predictions is not None, "the caller saw the file"
    assert facts is not None, "the caller saw the file"
    labels, scores, users, source_rows, epoch = predictions
    groups = {}
    known = facts.of_rows(source_rows)
    for group, mask in (layers(known, of) if of else known.groups()).items():
        of_users = None if users is None else users[mask]
        clusters = mask.sum() if of_users is None else np.unique(of_users).size
        if clusters > 1 and 0 < labels[mask].mean() < 1:
            draws = resampled_aucs(labels[mask], scores[mask], of_users)
            groups[group] = OfGroup(auc(labels[mask], scores[mask]), draws)
    return epoch, groups


def _fingerprint(predictions: Predictions) -> str:
    digest = hashlib.sha256()
    for array in (predictions.labels, predictions.source_rows, predictions.user_ids):
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
