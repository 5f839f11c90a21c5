"""Hand-made features for trees: each row's are computed from what was known before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipelines.baselines.history_features import HistoryFeatures
from pipelines.baselines.past_labels import PastLabels
from torchrec_gr.data.loader import HistoryAsOf, RequestLoader
from torchrec_gr.data.log_source import TRAIN
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.sequences.request_batch import NO_AGE, RequestBatch

MAX_CATEGORIES = 64
"""Ids of tables of up to this many rows are categories to the trees."""

_BATCH_ROWS = 16_384
_FOREVER = np.iinfo(np.int64).max

Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class FeatureRows:
    """N rows of a split, in the order of the log.

    Args:
        values: [N, F] float32, NaN where there is nothing to say.
        labels: [N] float32, the first label.
        user_ids, source_rows: [N] int64, as batches hold them.
    """

    values: NDArray[np.float32]
    labels: NDArray[np.float32]
    user_ids: Ints
    source_rows: Ints


@dataclasses.dataclass(frozen=True)
class TreeFeatures:
    """The features of every split.

    Args:
        names: of the F features.
        categorical: of those, the ones that are ids.
        rows: split -> its rows.
    """

    names: tuple[str, ...]
    categorical: tuple[str, ...]
    rows: dict[str, FeatureRows]


@dataclasses.dataclass(frozen=True)
class _Read:
    """A split as it was read: columns [N], ids of large tables, the moments known before."""

    columns: dict[str, NDArray[np.generic]]
    large: dict[str, Ints]
    known_before: Ints
    labels: NDArray[np.float32]
    user_ids: Ints
    source_rows: Ints


def read_features(log: PreparedLog, history_as_of: HistoryAsOf) -> TreeFeatures:
    """Reads every split and computes its features.

    They are: the log's dense features, computed ones as well; the ages of items; what the history
    says of the candidate (`HistoryFeatures`); ids of small tables as categories; of each id of a
    large table how many training rows had it so far, and their smoothed mean label. "So far" is
    strictly before the moment that the row's history ends before, so that no label is in a feature
    of its own row or of an earlier one. Where a log has no times, training rows are taken to have
    happened in the log's order, and all of them before every other row.

    Args:
        log: the impressions.
        history_as_of: how fresh the past is, as models have it.

    Raises:
        ValueError: the log cannot serve `history_as_of`.
    """
    small, large = _categorical(log)
    read = {s: _read(log, s, history_as_of, small, large) for s in log.splits}
    train = read[TRAIN]
    past = {
        name: PastLabels.of(train.large[name], train.known_before, train.labels) for name in large
    }
    rows: dict[str, FeatureRows] = {}
    names: tuple[str, ...] = ()
    for split, of_split in read.items():
        columns = dict(of_split.columns)
        for name in large:
            counts, lift = past[name].before(of_split.large[name], of_split.known_before)
            columns |= {f"rows_{name}": np.log1p(counts), f"lift_{name}": lift}
        names = tuple(columns)
        values = np.stack([column.astype(np.float32) for column in columns.values()], axis=1)
        rows[split] = FeatureRows(values, of_split.labels, of_split.user_ids, of_split.source_rows)
    return TreeFeatures(names, small, rows)


def _categorical(log: PreparedLog) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The categorical features of an impression: those of small tables, and the others.

    Buckets of computed statistics are left out: their numbers are there already.
    """
    schema, table_rows = log.schema, log.table_rows
    features = [f for f in (*schema.of("contextual"), *schema.of("candidate")) if not f.is_computed]
    small = tuple(f.name for f in features if table_rows[f.table or ""] <= MAX_CATEGORIES)
    return small, tuple(f.name for f in features if f.name not in small)


def _read(
    log: PreparedLog,
    split: str,
    history_as_of: HistoryAsOf,
    small: tuple[str, ...],
    large: tuple[str, ...],
) -> _Read:
    of_history = HistoryFeatures.of(log)
    loader = RequestLoader(log, split, batch_size=_BATCH_ROWS, history_as_of=history_as_of)
    parts = []
    for batch in loader:
        assert isinstance(batch, RequestBatch)  # the loader's view
        parts.append(_of_batch(log, batch, of_history, small, large))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(joined["source_rows"], kind="stable")
    joined = {name: column[order] for name, column in joined.items()}
    known_before = joined.pop("known_before")
    labels, users, rows = (joined.pop(n) for n in ("labels", "user_ids", "source_rows"))
    if log.schema.time is None:
        known_before = rows if split == TRAIN else np.full_like(rows, _FOREVER)
    ids = {name: joined.pop(f"id {name}") for name in large}
    return _Read(joined, ids, known_before, labels, users, rows)


def _of_batch(
    log: PreparedLog,
    batch: RequestBatch,
    of_history: HistoryFeatures,
    small: tuple[str, ...],
    large: tuple[str, ...],
) -> dict[str, NDArray[np.generic]]:
    request = np.repeat(np.arange(batch.num_requests), batch.num_candidates.numpy())
    assert batch.labels is not None
    columns: dict[str, NDArray[np.generic]] = dict(_dense(log, batch, request))
    columns |= of_history(batch)
    for name in (*small, *large):
        ids = batch.ids[name].values().long().numpy()
        key = name if name in small else f"id {name}"
        columns[key] = ids[request] if name in batch.contextual else ids
    if batch.item_ages is not None:
        ages = batch.item_ages.numpy()
        columns["log_item_age_days"] = np.where(ages == NO_AGE, np.nan, np.log1p(ages))
    columns["labels"] = batch.labels[:, 0].numpy()
    columns["user_ids"] = batch.user_ids.numpy()[request]
    columns["source_rows"] = batch.source_rows.numpy()
    columns["known_before"] = batch.candidate_times.numpy()
    return columns


def _dense(
    log: PreparedLog, batch: RequestBatch, request: Ints
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    names = iter(log.dense_names)
    if batch.dense_contextual is not None:
        for column in batch.dense_contextual.numpy()[request].T:
            yield next(names), column
    if batch.dense_candidates is not None:
        for column in batch.dense_candidates.numpy().T:
            yield next(names), column
