"""The one-epoch diagnostic: how well a model predicts rows whose ids it saw never, rarely or often.

After each epoch the same rows of the training split are scored as the held-out ones are, without
training. What the numbers say is in `diagnostic_report`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from torchrec_gr.data.columns import Columns
from torchrec_gr.data.log_reading import read_all, read_times, row_needs, row_splits
from torchrec_gr.data.log_source import TEST, TRAIN, VALIDATION
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.step_loader import StepLoader
from torchrec_gr.metrics import log_loss, normalized_entropy
from torchrec_gr.schema.feature_schema import Feature, Table
from torchrec_gr.schema.vocabulary import Vocabulary, VocabularyBuilder
from torchrec_gr.training.evaluation import Predictions
from torchrec_gr.training.trainer import Loader

BUCKETS = ("never", "rarely", "often")
"""How often a row's id was seen in training, in the order of `FrequencyBuckets.of`."""

_BY_BUCKET = (f"{name}_{bucket}" for name in ("ne", "share") for bucket in BUCKETS)
METRICS = frozenset(("train_ne", "validation_ne", "rarely_up_to")).union(
    *((name, f"train_{name}") for name in _BY_BUCKET)
)
"""The names of everything that `Diagnostic.measure` gives."""

SAMPLE_ROWS = 20_000
"""Training rows that are scored after each epoch, in whole steps; all of a smaller split."""

_SAMPLE_SEED = 0x5EED_0F_5A  # of no run: the rows must lie anywhere in a run's own order
_MANY_IDS = 1_000
_NO_BUCKET = -1
NO_ID = np.iinfo(np.int32).max
"""What `times_seen` gives a row of null ids alone."""


class FrequencyBuckets:
    """How often each row's id occurs in the training rows: never, rarely or often.

    A row is judged by the rarest of its ids, among contextual and candidate features of more than
    1,000 ids (by the one with the most, where none has so many): the id that the model knows least
    of, be it the user's or the item's. Occurrences in the labelled rows of the training split are
    counted, not those in histories, and ids below a table's `min_count` like any others. "Rarely"
    is at most the median count over the training rows, so that half of them or more are in it. A
    row of null ids alone is in no bucket.

    Args:
        log: prepared; its files are read twice, the columns of these ids alone.

    Attributes:
        features: whose ids are counted; empty where a log has no ids in its rows.
        rarely_up_to: the highest count that is called rarely.
    """

    def __init__(self, log: PreparedLog) -> None:
        features = _judged_by(log)
        self.features = tuple(feature.name for feature in features)
        num_rows = sum(block.num_rows for block in log.blocks)
        self._bucket = np.full(num_rows, _NO_BUCKET, np.int8)
        self.rarely_up_to = 0
        if features:
            counts, is_train = times_seen(log, [feature.column for feature in features])
            has_id = counts < NO_ID
            if (is_train & has_id).any():
                self.rarely_up_to = int(np.median(counts[is_train & has_id]))
            borders = [0, self.rarely_up_to]  # a count that is on one is below it
            self._bucket[has_id] = np.searchsorted(borders, counts[has_id], side="left")

    def of(self, source_rows: NDArray[np.int64]) -> NDArray[np.int8]:
        """The bucket of each row of the log: [N] int8, index into BUCKETS, or -1 for none."""
        return self._bucket[source_rows]


def measure_by_frequency(predictions: Predictions, buckets: FrequencyBuckets) -> dict[str, float]:
    """The NE of a split's predictions, split by how often a row's id was seen in training.

    Every bucket's log loss is over the entropy of the whole split's mean label, for the schema's
    first label. So the buckets' NEs, weighted by their shares, add up to the split's, and a rise of
    it can be traced to them; and a bucket whose labels are all alike has one too. The price:
    buckets of different mean labels are not to be compared with each other, only with themselves at
    another epoch.

    Args:
        predictions: of N rows of the log.
        buckets: of the same log.

    Returns:
        "ne_<bucket>" and "share_<bucket>" (of the split's rows) for each bucket that has rows;
        nothing where all labels of the split are alike.
    """
    labels, logits = predictions.labels[:, 0], predictions.logits[:, 0]
    entropy = _entropy(predictions)
    if entropy == 0.0:
        return {}
    measured: dict[str, float] = {}
    of_rows = buckets.of(predictions.source_rows)
    for place, bucket in enumerate(BUCKETS):
        rows = of_rows == place
        if rows.any():
            measured[f"ne_{bucket}"] = log_loss(labels[rows], logits[rows]) / entropy
            measured[f"share_{bucket}"] = float(rows.mean())
    return measured


class Diagnostic:
    """Measures each epoch of a run alike, on held-out rows and on rows that it trained on.

    Args:
        log: prepared.
        make_loader: gives a loader of a split as it is evaluated. It is asked for the training
            split's, whose order is then set: the same rows in every epoch and run, on any number
            of processes.
    """

    def __init__(self, log: PreparedLog, make_loader: Callable[[str], StepLoader[Any]]) -> None:
        self._buckets = FrequencyBuckets(log)
        self._sample = TrainingSample(make_loader(TRAIN), log.num_rows(TRAIN))

    def measure(
        self, evaluate: Callable[[Loader], Predictions], scored: Mapping[str, Predictions]
    ) -> dict[str, float]:
        """Scores the training sample and measures it and the test split by id frequency.

        Args:
            evaluate: scores a loader's rows; called on every process.
            scored: predictions by held-out split, those of the test split among them.

        Returns:
            As `measure_by_frequency`: "ne_never", "share_never", ... of the test split,
            "train_ne_rarely", ... of the sample; "train_ne"; "validation_ne", by which the report
            chooses an epoch; "rarely_up_to", the highest count that is called rarely.
        """
        trained = evaluate(self._sample)
        by_bucket = measure_by_frequency(trained, self._buckets)
        measured = {f"train_{name}": value for name, value in by_bucket.items()}
        measured |= measure_by_frequency(scored[TEST], self._buckets)
        for name, predictions in (("train", trained), (VALIDATION, scored.get(VALIDATION))):
            if predictions is not None and _entropy(predictions) > 0.0:
                labels, logits = predictions.labels[:, 0], predictions.logits[:, 0]
                measured[f"{name}_ne"] = normalized_entropy(labels, logits)
        if self._buckets.features:
            measured["rarely_up_to"] = float(self._buckets.rarely_up_to)
        return measured


class TrainingSample:
    """A loader of the same rows of the training split in every epoch: the first of one order.

    Args:
        loader: of the training split; its order is set here.
        num_rows: of the split.
    """

    def __init__(self, loader: StepLoader[Any], num_rows: int) -> None:
        loader.seed = _SAMPLE_SEED
        self._loader = loader
        self._num_rows = num_rows

    @property
    def num_steps(self) -> int:
        """Steps, alike on every process: as many as hold SAMPLE_ROWS rows on average."""
        num_steps = self._loader.num_steps
        return min(num_steps, -(-SAMPLE_ROWS * num_steps // self._num_rows))

    def __iter__(self) -> Iterator[Any]:
        self._loader.seek(0, 0)
        return itertools.islice(iter(self._loader), self.num_steps)

    def seek(self, epoch: int, step: int) -> None:
        """Nothing: every iteration gives the sample from its first row on."""

    def state_at(self, epoch: int, step: int) -> dict[str, int | str]:
        """As its loader's."""
        return self._loader.state_at(epoch, step)

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """As its loader's."""
        self._loader.load_state_dict(state)


def _judged_by(log: PreparedLog) -> list[Feature]:
    """The features whose ids say how well a row is known."""
    given = [*log.schema.of("contextual"), *log.schema.of("candidate")]
    features = [feature for feature in given if not feature.is_computed]
    num_ids = {f.name: log.table_rows[f.table] - 1 for f in features}
    many = [f for f in features if num_ids[f.name] > _MANY_IDS]
    return many or sorted(features, key=lambda f: num_ids[f.name])[-1:]


def times_seen(log: PreparedLog, columns: list[str]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """How often the rarest of each row's ids occurs in training, and which rows train: [N] each.

    Args:
        log: prepared; its files are read twice, these columns alone.
        columns: of ids. Labelled rows of the training split are counted, whatever a table's
            `min_count`; a row of null ids alone has NO_ID.
    """
    known = _count_ids(log, columns)
    counts: list[NDArray[np.int32]] = []
    is_train: list[NDArray[np.bool_]] = []
    for block in _blocks(log, columns):
        rarest = np.full(len(block), NO_ID, np.int32)
        for column, words in known.items():
            ids = block.ids(column)
            seen = words.counts[words.rows(ids)]
            seen[ids.is_null().to_numpy(zero_copy_only=False)] = NO_ID
            rarest = np.minimum(rarest, seen).astype(np.int32)
        counts.append(rarest)
        is_train.append(_trains(log, block))
    return np.concatenate(counts), np.concatenate(is_train)


def _count_ids(log: PreparedLog, columns: list[str]) -> dict[str, Vocabulary]:
    """Column -> its ids and how often each occurs in the training rows; unknown ones never do."""
    builders = {column: VocabularyBuilder(Table(column)) for column in columns}
    for block in _blocks(log, columns):
        train = pa.array(_trains(log, block))
        for column, builder in builders.items():
            builder.add(block.ids(column).filter(train).drop_null(), column)
    return {column: builder.build() for column, builder in builders.items()}


def _blocks(log: PreparedLog, columns: list[str]) -> Iterator[Columns]:
    """The log's rows in order, these columns and what tells a row's split."""
    needed = dict.fromkeys([*row_needs(log.source), *columns])
    return read_all(log.files, list(needed))


def _trains(log: PreparedLog, block: Columns) -> NDArray[np.bool_]:
    return row_splits(log.source, block, read_times(log.source, block)).mask(TRAIN)


def _entropy(predictions: Predictions) -> float:
    """Of the mean of the first label, in nats."""
    mean = float(predictions.labels[:, 0].mean(dtype=np.float64))
    return -sum(p * math.log(p) for p in (mean, 1.0 - mean) if p > 0.0)
