"""Gradient-boosted trees on hand-made features of the past.

Source: Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree" (NeurIPS 2017).
"""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.baselines.features import FeatureRows, TreeFeatures, read_features
from pipelines.baselines.scored import Scored, predictions_of
from torchrec_gr.data.loader import HistoryAsOf
from torchrec_gr.data.log_source import TRAIN, VALIDATION
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.sequences.request_batch import RequestBatch
from torchrec_gr.training.evaluation import Predictions


@dataclasses.dataclass(frozen=True)
class TreeSettings:
    """Sizes and rates, under LightGBM's names.

    Args:
        num_leaves: of a tree at most.
        learning_rate: what each tree's leaves are multiplied by.
        min_data_in_leaf: training rows of a leaf at least.
        num_rounds: trees at most.
        early_stopping_rounds: boosting ends where the validation log loss was lowest this many
            trees ago; those after it are dropped.
        feature_fraction: share of the features that a tree may use.
        bagging_fraction: share of the rows that a tree is grown on.
        lambda_l2: weight decay of the leaves.

    Raises:
        ValueError: a value out of range.
    """

    num_leaves: int = 31
    learning_rate: float = 0.05
    min_data_in_leaf: int = 100
    num_rounds: int = 2000
    early_stopping_rounds: int = 50
    feature_fraction: float = 0.5
    bagging_fraction: float = 0.8
    lambda_l2: float = 10.0

    def __post_init__(self) -> None:
        for name, least in (("num_leaves", 2), ("num_rounds", 1), ("early_stopping_rounds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("feature_fraction", "bagging_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")


@dataclasses.dataclass(frozen=True)
class BoostedTrees:
    """Grown trees, and the features that they read.

    Args:
        features: of the log that they were grown on.
        booster: LightGBM's.
        num_examples: training rows read, once for each round of boosting.
        seconds: that features and growing took.
    """

    features: TreeFeatures
    booster: Any
    num_examples: int
    seconds: float

    def score(self, batch: RequestBatch) -> NDArray[np.float64]:
        """[C] log-odds of a batch's candidates, features computed."""
        return self._log_odds(self.features.of_request(batch))

    def score_split(self, split: str) -> Predictions:
        """Scores the rows of one split."""
        r = self.features.rows[split]
        return predictions_of(self._log_odds(r.values), r.labels, r.user_ids, r.source_rows)

    def score_splits(self) -> Scored:
        """Scores every split but the training split."""
        held_out = (split for split in self.features.rows if split != TRAIN)
        predictions = {split: self.score_split(split) for split in held_out}
        return Scored(predictions, self.seconds, self.num_leaves, self.num_examples)

    def _log_odds(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        found = self.booster.predict(values, raw_score=True, num_iteration=self._kept)
        return np.asarray(found, np.float64)

    @property
    def num_leaves(self) -> int:
        """Of all trees that score."""
        trees = self.booster.dump_model(num_iteration=self._kept)["tree_info"]
        return sum(tree["num_leaves"] for tree in trees)

    @property
    def size_bytes(self) -> int:
        """Of the trees as LightGBM saves them."""
        return len(self.booster.model_to_string(num_iteration=self._kept).encode())

    @property
    def _kept(self) -> int:
        """Trees that score: up to the best one, or all."""
        best: int = self.booster.best_iteration
        return best if best > 0 else self.booster.current_iteration()


def train_trees(
    log: PreparedLog,
    settings: TreeSettings,
    seed: int,
    history_as_of: HistoryAsOf,
    *,
    rows_share: float = 1.0,
    max_seconds: float | None = None,
) -> BoostedTrees:
    """Computes features and grows trees on them.

    Trees stop where the validation split says, if there is one. The same seed and number of threads
    give the same trees, unless `max_seconds` ends them.

    Args:
        log: the impressions.
        settings: of the trees.
        seed: of the rows and features that each tree sees.
        history_as_of: how fresh the past is, as models have it.
        rows_share: of the training rows, drawn at random, that trees are grown on.
        max_seconds: boosting ends after the tree with which so many are spent, features counted.

    Raises:
        ValueError: LightGBM is not installed, a share outside (0, 1], or seconds not above 0.
    """
    lightgbm = require_lightgbm()
    if not 0 < rows_share <= 1:
        raise ValueError(f"rows_share must be above 0 and at most 1, got {rows_share}")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds must be above 0, got {max_seconds}")
    began = time.monotonic()
    features = read_features(log, history_as_of)
    until = None if max_seconds is None else began + max_seconds
    train = _draw(features.rows[TRAIN], rows_share, seed)
    booster = _grow(lightgbm, features, train, settings, seed, until)
    num_examples = train.labels.size * booster.current_iteration()
    return BoostedTrees(features, booster, num_examples, time.monotonic() - began)


def require_lightgbm() -> Any:
    """LightGBM's module.

    Raises:
        ValueError: it is not installed; says how to.
    """
    try:
        return importlib.import_module("lightgbm")
    except ImportError as error:
        raise ValueError(
            "boosted trees need LightGBM: pip install lightgbm, or torchrec_gr[trees]"
        ) from error


def _grow(
    lightgbm: Any,
    features: TreeFeatures,
    train_rows: FeatureRows,
    settings: TreeSettings,
    seed: int,
    until: float | None,
) -> Any:
    def data(rows: FeatureRows, reference: Any = None) -> Any:
        return lightgbm.Dataset(
            rows.values,
            rows.labels,
            feature_name=[f"f{i}" for i in range(len(features.names))],  # names may hold any sign
            categorical_feature=[features.names.index(n) for n in features.categorical],
            reference=reference,
        )

    train = data(train_rows)
    judges = features.rows.get(VALIDATION)
    callbacks: list[Callable[[Any], None]] = [] if until is None else [_stop_at(lightgbm, until)]
    if judges is not None:
        patience = settings.early_stopping_rounds
        callbacks.append(lightgbm.early_stopping(patience, verbose=False))
    return lightgbm.train(
        _parameters(settings, seed),
        train,
        settings.num_rounds,
        valid_sets=[] if judges is None else [data(judges, train)],
        callbacks=callbacks,
    )


def _parameters(settings: TreeSettings, seed: int) -> dict[str, Any]:
    values = dataclasses.asdict(settings)
    for name in ("num_rounds", "early_stopping_rounds"):
        del values[name]
    return {
        **values,
        "objective": "binary",
        "bagging_freq": 1,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": torch.get_num_threads(),
        "verbosity": -1,
    }


def _draw(rows: FeatureRows, share: float, seed: int) -> FeatureRows:
    if share == 1:
        return rows
    num_rows = rows.labels.size
    num_drawn = max(1, round(share * num_rows))
    drawn = np.sort(np.random.default_rng(seed).choice(num_rows, num_drawn, replace=False))
    columns = (getattr(rows, field.name)[drawn] for field in dataclasses.fields(rows))
    return FeatureRows(*columns)


def _stop_at(lightgbm: Any, until: float) -> Callable[[Any], None]:
    def stop(env: Any) -> None:
        if time.monotonic() >= until:
            raise lightgbm.callback.EarlyStopException(env.iteration, env.evaluation_result_list)

    stop.order = 99  # type: ignore[attr-defined]  # after early stopping has seen the tree
    return stop
