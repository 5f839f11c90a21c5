"""Impressions of a log as numbers: table rows, floats, labels."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Rows:
    """N impressions, encoded.

    Args:
        user_index: [N] int64, place in the log's sorted raw users; -1 where the log has none.
        times: [N] int64; 0 where the log has none.
        labels: [N, tasks] float32, 0 or 1.
        ids: candidate or contextual categorical feature -> [N] int64 rows of its table.
        dense: candidate or contextual dense feature -> [N] float32, transformed.
        source_rows: [N] int64, row number counted from 0 over the log's files in order.
        split: [N] int8, index into `PreparedLog.splits`.
        item_ages: [N] int64, as in RequestBatch.
    """

    user_index: NDArray[np.int64]
    times: NDArray[np.int64]
    labels: NDArray[np.float32]
    ids: dict[str, NDArray[np.int64]]
    dense: dict[str, NDArray[np.float32]]
    source_rows: NDArray[np.int64]
    split: NDArray[np.int8]
    item_ages: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return self.user_index.size

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> Rows:
        """The rows at `index`: positions, or a mask of N."""
        return Rows(
            user_index=self.user_index[index],
            times=self.times[index],
            labels=self.labels[index],
            ids={name: values[index] for name, values in self.ids.items()},
            dense={name: values[index] for name, values in self.dense.items()},
            source_rows=self.source_rows[index],
            split=self.split[index],
            item_ages=None if self.item_ages is None else self.item_ages[index],
        )
