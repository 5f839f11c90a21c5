"""A log of items that come and go, read a day at a time."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.data.datasets import synthetic
from torchrec_gr.sequences.request_batch import ImpressionBatch

NUM_DAYS = synthetic.NUM_DAYS
ITEM = "item_id"
CONTEXT = ("user_id", "device", "age_group", "hour", "cluster")
"""The other categorical features; their ids count from 0."""


@dataclasses.dataclass(frozen=True)
class Log:
    """N impressions in time order, and how well they could be scored.

    Args:
        ids: by feature, [N] int64.
        dense: [N, F] float32.
        labels: [N] float32.
        day: [N] int64, ascending from 0.
        first_test_day: the first of the days that the AUC is taken over.
        ceiling: the AUC of the true probabilities over them.
    """

    ids: Mapping[str, Tensor]
    dense: Tensor
    labels: Tensor
    day: Tensor
    first_test_day: int
    ceiling: float

    def with_ids(self, feature: str, ids: Tensor) -> Log:
        """The same with other ids of a feature."""
        return dataclasses.replace(self, ids={**self.ids, feature: ids})


def draw_log(seed: int, **sizes: Any) -> Log:
    """`synthetic` without organic events; `sizes` are arguments of its `load`."""
    with tempfile.TemporaryDirectory() as folder:
        source = synthetic.load(None, Path(folder), num_organic=1, seed=seed, **sizes)
        rows = pq.read_table(source.rows[0])
    columns = {name: torch.from_numpy(rows[name].to_numpy().copy()) for name in rows.column_names}
    dense = [columns[name].log1p() for name in ("price", "session_minutes")]
    return Log(
        ids={name: columns[name] for name in (ITEM, *CONTEXT)},
        dense=torch.stack(dense, dim=1).float(),
        labels=columns["click"].float(),
        day=(columns["time_ms"] - synthetic.START_MS) // synthetic.DAY_MS,
        first_test_day=(synthetic.TEST_FROM - synthetic.START_MS) // synthetic.DAY_MS,
        ceiling=source.notes["bayes_auc"],
    )


class Day:
    """The batches of one day in time order: an epoch of a `Trainer`.

    Args:
        log: which log.
        day: which day, from 0.
        batch_size: impressions in a batch.
    """

    def __init__(self, log: Log, day: int, batch_size: int) -> None:
        first, last = torch.searchsorted(log.day, torch.tensor([day, day + 1])).tolist()
        self._log, self._batch_size = log, batch_size
        self._rows = range(first, last)

    @property
    def num_steps(self) -> int:
        """How many batches."""
        return -(-len(self._rows) // self._batch_size)

    def __iter__(self) -> Iterator[ImpressionBatch]:
        for first in range(0, len(self._rows), self._batch_size):
            yield self._batch(self._rows[first : first + self._batch_size])

    def seek(self, epoch: int, step: int) -> None:
        """A day is gone through from its beginning."""

    def state_at(self, epoch: int, step: int) -> dict[str, int | str]:
        """Nothing is saved."""
        return {}

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Nothing is taken up."""

    def _batch(self, rows: range) -> ImpressionBatch:
        log, places = self._log, slice(rows.start, rows.stop)
        ids = [column[places] for column in log.ids.values()]
        return ImpressionBatch(
            dense_features=log.dense[places],
            sparse_features=KeyedJaggedTensor(
                keys=list(log.ids),
                values=torch.cat(ids),
                lengths=torch.ones(len(ids) * len(rows), dtype=torch.int32),
            ),
            labels=log.labels[places],
            weights=torch.ones(len(rows)),
            user_ids=log.ids["user_id"][places],
            source_rows=torch.arange(rows.start, rows.stop),
        )
