"""Hand-made features for trees: each row's are computed from what was known before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
class BatchFeatures:
    """The features that a batch says by itself, without the labels of training rows.

    Args:
        dense_names: of the log.
        of_history: what a history says of a candidate.
        small: categorical features of small tables: their ids are features.
        large: those of large tables, of whose ids the training rows tell.
        has_clock: whether one user's times can be compared with another's.
    """

    dense_names: tuple[str, ...]
    of_history: HistoryFeatures
    small: tuple[str, ...]
    large: tuple[str, ...]
    has_clock: bool

    @classmethod
    def of(cls, log: PreparedLog) -> BatchFeatures:
        """What the log's schema has.

        Buckets of computed statistics are left out: their numbers are there already.
        """
        schema, rows = log.schema, log.table_rows
        features = (*schema.of("contextual"), *schema.of("candidate"))
        told = [f for f in features if not f.is_computed]
        small = tuple(f.name for f in told if rows[f.table or ""] <= MAX_CATEGORIES)
        large = tuple(f.name for f in told if f.name not in small)
        of_history = HistoryFeatures.of(log)
        return cls(tuple(log.dense_names), of_history, small, large, schema.has_clock)

    def moments(self, batch: RequestBatch) -> Ints:
        """[C] the moment before which labels are known; without a clock, those of all training."""
        times = batch.candidate_times.numpy()
        return times if self.has_clock else np.full_like(times, _FOREVER)

    def __call__(self, batch: RequestBatch) -> dict[str, NDArray[np.generic]]:
        """Name -> [C] values, in an order that is the same for every batch."""
        columns: dict[str, NDArray[np.generic]] = dict(self._dense(batch))
        columns |= self.of_history(batch)
        columns |= {name: ids_of(batch, name) for name in self.small}
        if batch.item_ages is not None:
            ages = batch.item_ages.numpy()
            columns["log_item_age_days"] = np.where(ages == NO_AGE, np.nan, np.log1p(ages))
        return columns

    def _dense(self, batch: RequestBatch) -> Iterator[tuple[str, NDArray[np.float32]]]:
        names = iter(self.dense_names)
        if batch.dense_contextual is not None:
            for column in batch.dense_contextual.numpy()[request_of(batch)].T:
                yield next(names), column
        if batch.dense_candidates is not None:
            for column in batch.dense_candidates.numpy().T:
                yield next(names), column


@dataclasses.dataclass(frozen=True)
class TreeFeatures:
    """The features of every split, and how a request has its own.

    Args:
        names: of the F features.
        rows: split -> its rows.
        of_batch: what a batch says by itself.
        past: of each feature of a large table, what the training rows say of its ids.
    """

    names: tuple[str, ...]
    rows: Mapping[str, FeatureRows]
    of_batch: BatchFeatures
    past: Mapping[str, PastLabels]

    @property
    def categorical(self) -> tuple[str, ...]:
        """Of the features, the ones that are ids."""
        return self.of_batch.small

    def of_request(self, batch: RequestBatch) -> NDArray[np.float32]:
        """[C, F] of a batch that comes after training: each label before its moments is known."""
        ids = {name: ids_of(batch, name) for name in self.past}
        moments = self.of_batch.moments(batch)
        return _stacked(_with_past(self.of_batch(batch), ids, moments, self.past))


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
    of its own row or of an earlier one. A log without times is taken to be in order, its training
    rows before all others; where times only order each user's events, users are taken one after
    another, as the log first names them, and a training row knows nothing of its own user's labels.

    Args:
        log: the impressions.
        history_as_of: how fresh the past is, as models have it.

    Raises:
        ValueError: the log cannot serve `history_as_of`.
    """
    of_batch = BatchFeatures.of(log)
    read = {split: _read(log, split, history_as_of, of_batch) for split in log.splits}
    train = read[TRAIN]
    past = {
        name: PastLabels.of(train.large[name], train.known_before, train.labels)
        for name in of_batch.large
    }
    rows: dict[str, FeatureRows] = {}
    names: tuple[str, ...] = ()
    for split, r in read.items():
        columns = _with_past(r.columns, r.large, r.known_before, past)
        names = tuple(columns)
        rows[split] = FeatureRows(_stacked(columns), r.labels, r.user_ids, r.source_rows)
    return TreeFeatures(names, rows, of_batch, past)


def request_of(batch: RequestBatch) -> Ints:
    """[C] the request of each candidate."""
    return np.repeat(np.arange(batch.num_requests), batch.num_candidates.numpy())


def ids_of(batch: RequestBatch, name: str) -> Ints:
    """[C] the table rows of a categorical feature, one of each candidate."""
    ids = batch.ids[name].values().long().numpy()
    return ids[request_of(batch)] if name in batch.contextual else ids


def _read(
    log: PreparedLog, split: str, history_as_of: HistoryAsOf, of_batch: BatchFeatures
) -> _Read:
    loader = RequestLoader(log, split, batch_size=_BATCH_ROWS, history_as_of=history_as_of)
    parts = []
    for batch in loader:
        assert isinstance(batch, RequestBatch)  # the loader's view
        assert batch.labels is not None
        ids = {name: ids_of(batch, name) for name in of_batch.large}
        about = {
            "known before": of_batch.moments(batch),
            "labels": batch.labels[:, 0].numpy(),
            "users": batch.user_ids.numpy()[request_of(batch)],
            "rows": batch.source_rows.numpy(),
        }
        parts.append((of_batch(batch), ids, about))
    columns, large, about = (_joined(of) for of in zip(*parts, strict=True))
    order = np.argsort(about["rows"], kind="stable")
    columns, large, about = (
        {name: column[order] for name, column in of.items()} for of in (columns, large, about)
    )
    known_before, rows = about["known before"], about["rows"]
    if split == TRAIN and not of_batch.has_clock:
        known_before = _first_of_user(about["users"], rows)
    return _Read(columns, large, known_before, about["labels"], about["users"], rows)


def _first_of_user(users: Ints, rows: Ints) -> Ints:
    """[N] of each row the first row of its user; itself where it has none."""
    _, first, place = np.unique(users, return_index=True, return_inverse=True)
    return np.where(users < 0, rows, rows[first][place])


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _with_past(
    columns: Mapping[str, NDArray[np.generic]],
    ids: Mapping[str, Ints],
    moments: Ints,
    past: Mapping[str, PastLabels],
) -> dict[str, NDArray[np.generic]]:
    """The columns, and what the labels before the moments say of the ids."""
    all_columns = dict(columns)
    for name, of_name in past.items():
        counts, lift = of_name.before(ids[name], moments)
        all_columns |= {f"rows_{name}": np.log1p(counts), f"lift_{name}": lift}
    return all_columns


def _stacked(columns: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    return np.stack([column.astype(np.float32) for column in columns.values()], axis=1)
