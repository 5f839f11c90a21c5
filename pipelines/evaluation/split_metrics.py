"""The metrics of a split's predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torchrec_gr.data.log_source import TEST
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.metrics import auc, calibration, gauc, log_loss, normalized_entropy
from torchrec_gr.training.evaluation import Predictions


@dataclasses.dataclass(frozen=True)
class SplitMetrics:
    """What a model reaches on one split, for the schema's first label.

    Args:
        auc, log_loss, ne, calibration: exact, over all rows.
        gauc: AUC within users, weighted by impressions; None where it is refused.
        gauc_refused: why.
        gauc_users_counted, gauc_users_left_out: users with both classes, and with one.
    """

    auc: float
    log_loss: float
    ne: float
    calibration: float
    gauc: float | None = None
    gauc_refused: str | None = None
    gauc_users_counted: int | None = None
    gauc_users_left_out: int | None = None

    def to_dict(self) -> dict[str, float | int | str | None]:
        """The metrics by name."""
        return dataclasses.asdict(self)

    def headline(self) -> dict[str, float]:
        """AUC, NE and log loss by name."""
        return {"auc": self.auc, "ne": self.ne, "log_loss": self.log_loss}


def of_further_test_sets(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The metrics of further test sets: `auc_<name>` of the split `test_<name>`.

    Args:
        metrics: split -> its metrics by name.
    """
    return {
        f"{name}_{split.removeprefix(f'{TEST}_')}": value
        for split, values in metrics.items()
        if split.startswith(f"{TEST}_")
        for name, value in values.items()
    }


def measure_further_labels(log: PreparedLog, scored: Predictions) -> dict[str, float]:
    """`auc_<label>` and `ne_<label>` of each label after the first that has both classes."""
    measured: dict[str, float] = {}
    for task, name in list(enumerate(log.schema.labels))[1:]:
        labels, logits = scored.labels[:, task], scored.logits[:, task]
        if labels.min() < labels.max():
            measured[f"auc_{name}"] = auc(labels, logits)
            measured[f"ne_{name}"] = normalized_entropy(labels, logits)
    return measured


def measure(log: PreparedLog, scored: Predictions, history_as_of: str) -> SplitMetrics:
    """Computes every metric of a split; GAUC only where it is sound on this log.

    Raises:
        ValueError: the split's labels are all of one class.
    """
    labels, logits = scored.labels[:, 0], scored.logits[:, 0]
    measured = SplitMetrics(
        auc=auc(labels, logits),
        log_loss=log_loss(labels, logits),
        ne=normalized_entropy(labels, logits),
        calibration=calibration(labels, logits),
    )
    refused = log.gauc_refusal(history_as_of)
    if refused:
        return dataclasses.replace(measured, gauc_refused=refused)
    try:
        grouped = gauc(labels, logits, scored.user_ids)
    except ValueError as error:  # no user has labels of both classes
        return dataclasses.replace(measured, gauc_refused=str(error))
    return dataclasses.replace(
        measured,
        gauc=grouped.value,
        gauc_users_counted=grouped.users_counted,
        gauc_users_left_out=grouped.users_left_out,
    )
