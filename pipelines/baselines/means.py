"""Baselines that know mean labels alone: of the item, of the user, of both together."""

from __future__ import annotations

import time
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from pipelines.baselines.scored import Scored, predictions_of
from torchrec_gr.data.loader import HistoryAsOf, RequestLoader
from torchrec_gr.data.log_source import TRAIN, VALIDATION
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.metrics import log_loss
from torchrec_gr.schema.feature_schema import nearest_valid
from torchrec_gr.sequences.request_batch import RequestBatch

MeanName = Literal["item_mean", "user_mean", "user_item_mean"]

PSEUDO_COUNTS = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Rows of the global mean that every id's own rows are joined by; the validation split chooses."""

_PSEUDO_COUNT = 10.0  # where there is no validation split
_BATCH_ROWS = 65_536

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class _Rows(NamedTuple):
    """N rows of a split; `ids` are of what a mean is taken of, 0 where that is not known."""

    ids: list[Ints]
    labels: NDArray[np.float32]
    user_ids: Ints
    source_rows: Ints


def score_means(log: PreparedLog, name: MeanName, history_as_of: HistoryAsOf) -> Scored:
    """Scores every split by smoothed mean labels of the training rows.

    The score is the log-odds of the id's mean, where `pseudo_count` rows of the global mean are
    added to the id's own rows; an id without training rows has the global mean. Of user and item
    together it is the sum of both log-odds less the global one. The pseudo-count is the one of
    `PSEUDO_COUNTS` with the lowest log loss on the validation split, alike for users and items.

    Args:
        log: the impressions.
        name: of what the means are.
        history_as_of: as `RequestLoader` takes it; means are of training rows whatever it is.

    Raises:
        ValueError: an unknown name, or the log has no items or no users to take a mean of.
    """
    require_ids(log, name)
    began = time.monotonic()
    rows = {split: _read(log, split, name, history_as_of) for split in log.splits}
    train, judge = rows.pop(TRAIN), rows.get(VALIDATION)
    sizes = [
        max(int(r.ids[i].max(initial=0)) for r in (train, *rows.values())) + 1
        for i in range(len(train.ids))
    ]
    pseudo_count = _PSEUDO_COUNT
    if judge is not None:
        pseudo_count = min(
            PSEUDO_COUNTS,
            key=lambda count: log_loss(judge.labels, _score(train, judge, sizes, count)),
        )
    seconds = time.monotonic() - began
    predictions = {
        split: predictions_of(
            _score(train, r, sizes, pseudo_count), r.labels, r.user_ids, r.source_rows
        )
        for split, r in rows.items()
    }
    num_parameters = sum(int(np.unique(ids).size) for ids in train.ids) + 1
    return Scored(predictions, seconds, num_parameters, train.labels.size)


def require_ids(log: PreparedLog, name: str) -> None:
    """Checks that a log has what a mean is taken of.

    Raises:
        ValueError: an unknown name, or no items or no users.
    """
    if name not in get_args(MeanName):
        raise ValueError(nearest_valid("mean", name, get_args(MeanName)))
    if name != "user_mean" and log.schema.item is None:
        raise ValueError(
            f"{name} needs items, but log {log.schema.name!r} names none: let the schema's "
            "target be the history feature of the item"
        )
    if name != "item_mean" and log.num_users == 0:
        raise ValueError(f"{name} needs users, but log {log.schema.name!r} has none")


def _read(log: PreparedLog, split: str, name: MeanName, history_as_of: HistoryAsOf) -> _Rows:
    item = log.schema.item
    columns: list[tuple[Ints, ...]] = []
    loader = RequestLoader(log, split, batch_size=_BATCH_ROWS, history_as_of=history_as_of)
    for batch in loader:
        assert isinstance(batch, RequestBatch)  # the loader's view
        assert batch.labels is not None
        users = batch.user_ids.repeat_interleave(batch.num_candidates).numpy()
        ids = []
        if name != "user_mean":
            assert item is not None  # checked
            ids.append(batch.ids[item.name].values().long().numpy())
        if name != "item_mean":
            ids.append(users + 1)  # -1, nobody, becomes 0
        columns.append((*ids, batch.labels[:, 0].numpy(), users, batch.source_rows.numpy()))
    *ids, labels, users, source_rows = (np.concatenate(c) for c in zip(*columns, strict=True))
    return _Rows(ids, labels, users, source_rows)


def _score(train: _Rows, rows: _Rows, sizes: list[int], pseudo_count: float) -> Floats:
    """[N] log-odds."""
    prior = (train.labels.sum(dtype=np.float64) + 0.5) / (train.labels.size + 1)  # neither 0 nor 1
    score = np.full(rows.labels.size, _log_odds(prior))
    for of_train, of_rows, size in zip(train.ids, rows.ids, sizes, strict=True):
        counts = np.bincount(of_train, minlength=size).astype(np.float64)
        positives = np.bincount(of_train, weights=train.labels, minlength=size)
        counts[0], positives[0] = 0, 0
        means = (positives + pseudo_count * prior) / (counts + pseudo_count)
        score += (_log_odds(means) - _log_odds(prior))[of_rows]
    return score


def _log_odds(probability: Floats | float) -> Floats:
    return np.log(probability) - np.log1p(-np.asarray(probability))
