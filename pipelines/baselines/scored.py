"""What a baseline without a network gives: the scores of every split, and what they cost."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from torchrec_gr.metrics import log_loss
from torchrec_gr.training.evaluation import Predictions


@dataclasses.dataclass(frozen=True)
class Scored:
    """The predictions of a baseline.

    Args:
        predictions: of every split but the training split; logits are log-odds of the first label.
        seconds: that training took, features counted; scoring is not in it.
        num_parameters: numbers that the model keeps: leaf values of trees, means of ids.
        num_examples: training rows read, once for each round of boosting.
    """

    predictions: dict[str, Predictions]
    seconds: float
    num_parameters: int
    num_examples: int


def predictions_of(
    logits: NDArray[np.float64],
    labels: NDArray[np.float32],
    user_ids: NDArray[np.int64],
    source_rows: NDArray[np.int64],
) -> Predictions:
    """Puts scored rows into the log's order.

    Args:
        logits, labels, user_ids, source_rows: [N] each, in any order.
    """
    order = np.argsort(source_rows, kind="stable")
    logits32 = logits[order].astype(np.float32)
    return Predictions(
        logits=logits32[:, None],
        labels=labels[order, None],
        user_ids=user_ids[order],
        source_rows=source_rows[order],
        loss=log_loss(labels[order], logits32),
    )
