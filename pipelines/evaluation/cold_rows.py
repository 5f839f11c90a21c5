"""Test rows that a model knows little of: a cold item, or a user without any history.

Beside a comparison's predictions lies `rows.npz` with what it takes to tell these rows apart.
"""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.diagnostic import NO_ID, times_seen
from pipelines.results.rows import write_atomically
from torchrec_gr.data.loader import RequestLoader
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.metrics import auc, normalized_entropy
from torchrec_gr.sequences.request_batch import RequestBatch
from torchrec_gr.training.evaluation import Predictions

WARM = 10
"""Rows of the training split from which on an item is no longer cold."""

GROUPS: Mapping[str, str] = {
    "item_unseen": "Items not seen in training",
    f"item_under_{WARM}": f"Items seen under {WARM} times",
    f"item_{WARM}_or_more": f"Items seen {WARM} times or more",
    "no_history": "Users without any history",
}
"""The groups of rows by name, and what a report calls them."""

METRICS = frozenset(f"{of}_{group}" for of in ("auc", "ne", "rows") for group in GROUPS)
"""The names of everything that `measure_groups` gives."""


@dataclasses.dataclass(frozen=True)
class RowFacts:
    """What is known of each row of a split before it is scored.

    Args:
        source_rows: [N] int64 rows of the log, ascending.
        item_counts: [N] int64, rows of the training split with the same item as their candidate;
            -1 where the row or the log has none.
        num_history: [N] int64 events that a model may read; -1 where the log has no histories.
    """

    source_rows: NDArray[np.int64]
    item_counts: NDArray[np.int64]
    num_history: NDArray[np.int64]

    @classmethod
    def of(cls, log: PreparedLog, loader: RequestLoader) -> RowFacts:
        """Of all rows of a loader, which reads requests, in one process.

        Args:
            log: prepared; the column of its items is read twice.
            loader: of the split.
        """
        rows, lengths = [], []
        for batch in loader:
            assert isinstance(batch, RequestBatch)
            rows.append(batch.source_rows.numpy())
            of_request = batch.num_history()
            lengths.append(of_request.repeat_interleave(batch.num_candidates).numpy())
        source_rows = np.concatenate(rows)
        order = np.argsort(source_rows)
        source_rows = source_rows[order]
        none = np.full(source_rows.size, -1, np.int64)
        item_counts = none
        if log.schema.item is not None:
            counts = times_seen(log, [log.schema.item.column])[0][source_rows]
            item_counts = np.where(counts == NO_ID, -1, counts).astype(np.int64)
        num_history = none if log.events is None else np.concatenate(lengths)[order]
        return cls(source_rows, item_counts, num_history.astype(np.int64))

    def of_rows(self, source_rows: NDArray[np.int64]) -> RowFacts:
        """The facts of these rows, in their order.

        Raises:
            ValueError: a row that nothing is known of.
        """
        place = np.searchsorted(self.source_rows, source_rows)
        place = np.minimum(place, max(self.source_rows.size - 1, 0))
        if not np.array_equal(self.source_rows[place], source_rows):
            raise ValueError("there are predictions of rows that are not of the test split")
        return RowFacts(source_rows, self.item_counts[place], self.num_history[place])

    def groups(self) -> dict[str, NDArray[np.bool_]]:
        """[N] for each group that has any of these rows: which of them are in it."""
        cold, some, warm, empty = GROUPS
        masks = {
            cold: self.item_counts == 0,
            some: (self.item_counts > 0) & (self.item_counts < WARM),
            warm: self.item_counts >= WARM,
            empty: self.num_history == 0,
        }
        return {group: mask for group, mask in masks.items() if mask.any()}

    def save(self, out_dir: Path) -> None:
        """Writes `predictions/rows.npz` of a comparison, where it is not there yet."""
        path = rows_path(out_dir)
        if path.exists():
            return
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **dataclasses.asdict(self))
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, out_dir: Path) -> RowFacts | None:
        """Reads what `save` wrote; None where there is nothing.

        Raises:
            ValueError: the file is damaged.
        """
        path = rows_path(out_dir)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(*(arrays[field.name] for field in dataclasses.fields(cls)))
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it and run again") from error


def rows_path(out_dir: Path) -> Path:
    """Where a comparison keeps what is known of its test rows."""
    return out_dir / "predictions" / "rows.npz"


def measure_groups(predictions: Predictions, facts: RowFacts) -> dict[str, float]:
    """The quality of a split's predictions in each group of rows, for the schema's first label.

    Args:
        predictions: of rows that the facts are of.
        facts: of the same log.

    Returns:
        "rows_<group>" for each group that has rows; "auc_<group>" and "ne_<group>", over the
        entropy of the group's own mean label, where it has labels of both classes.
    """
    labels, logits = predictions.labels[:, 0], predictions.logits[:, 0]
    measured: dict[str, float] = {}
    for group, rows in facts.of_rows(predictions.source_rows).groups().items():
        measured[f"rows_{group}"] = float(rows.sum())
        if 0.0 < labels[rows].mean() < 1.0:
            measured[f"auc_{group}"] = auc(labels[rows], logits[rows])
            measured[f"ne_{group}"] = normalized_entropy(labels[rows], logits[rows])
    return measured
