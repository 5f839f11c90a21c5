"""The baseline that knows nothing of users: how often an item was chosen in training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from torchrec_gr.data.loader import RequestLoader
from torchrec_gr.data.log_source import TRAIN
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.metrics import auc

_BATCH_ROWS = 65_536


def item_popularity(log: PreparedLog) -> NDArray[np.int64]:
    """[rows of the item's table] int64: events of the training window with each item.

    Where rows are not events themselves, those of label 1 count as well.
    """
    item = log.schema.item
    assert item is not None  # the caller asks only where the log has items
    assert log.events is not None
    assert log.schema.target is not None
    _, positions = log.events.select((TRAIN,))
    num_rows = log.table_rows[item.table]
    counts = np.bincount(log.events.rows[log.schema.target][positions], minlength=num_rows)
    if not log.source.rows_are_events:
        for ids, labels in _rows(log, TRAIN):
            counts += np.bincount(ids[labels == 1], minlength=num_rows)
    return counts


def score_popularity(log: PreparedLog, split: str) -> float:
    """The AUC of an item's popularity on a split."""
    counts = item_popularity(log)
    pieces = [(labels, counts[ids]) for ids, labels in _rows(log, split)]
    labels, scores = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return auc(labels, scores)


def _rows(log: PreparedLog, split: str) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Item rows [N] and first labels [N], a batch at a time."""
    item = log.schema.item
    assert item is not None
    for batch in RequestLoader(log, split, batch_size=_BATCH_ROWS):
        assert batch.labels is not None
        yield batch.ids[item.name].values().numpy(), batch.labels[:, 0].numpy()
