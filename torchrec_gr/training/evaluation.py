"""Scores every row that a loader gives, exactly, over any number of processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchrec_gr.sequences.request_batch import RequestBatch
from torchrec_gr.training.process_group import all_gather_rows, all_reduce_sum


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The scores of N rows of a log, in the log's order, alike on every process.

    Args:
        logits, labels: [N, tasks] float32.
        user_ids: [N] int64, as the batches hold them.
        source_rows: [N] int64, ascending.
        loss: the mean over all units that the model counts.
    """

    logits: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    user_ids: np.ndarray[Any, Any]
    source_rows: np.ndarray[Any, Any]
    loss: float


def evaluate(
    model: nn.Module,
    batches: Iterable[Any],
    device: torch.device,
    *,
    bf16: bool = False,
) -> Predictions:
    """Runs the model over batches without training it, and gathers its scores.

    Rows of weight 0, which only fill a batch up, are left out. The model is left in the mode that
    it was in.

    Args:
        model: sharded or not; not attached to a running train pipeline (see `Trainer.evaluate`).
        batches: as many on every process.
        bf16: run the dense part under bfloat16 autocast.

    Raises:
        ValueError: there is no batch, or the model gives no logits or no labels.
    """
    was_training = model.training
    model.eval()
    rows: list[tuple[Tensor, ...]] = []
    totals = torch.zeros(2, dtype=torch.float64, device=device)
    try:
        with torch.no_grad():
            for batch in batches:
                batch = batch.to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    _, output = model(batch)
                rows.append(_scored_rows(batch, output))
                totals += torch.stack([output.loss_sum.double(), output.num_units.double()])
    finally:
        model.train(was_training)
    if not rows:
        raise ValueError("there is no batch to evaluate: the split is empty")
    logits, labels, users, source_rows = (
        all_gather_rows(torch.cat(column)).cpu().numpy() for column in zip(*rows, strict=True)
    )
    order = np.argsort(source_rows, kind="stable")
    loss_sum, num_units = all_reduce_sum(*totals).tolist()
    return Predictions(
        logits[order],
        labels[order],
        users[order],
        source_rows[order],
        loss_sum / num_units if num_units else float("nan"),
    )


def _scored_rows(batch: Any, output: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The logits, labels, user ids and log rows of a batch's rows that count."""
    if output.logits is None or output.labels is None:
        raise ValueError("the model gives no logits or no labels: only a ranker can be evaluated")
    users = batch.user_ids
    if isinstance(batch, RequestBatch):
        users = users.repeat_interleave(batch.num_candidates)
    columns = (output.logits, output.labels, users, batch.source_rows)
    if output.weights is None:
        return columns
    counts = output.weights > 0
    logits, labels, users, source_rows = (column[counts] for column in columns)
    return logits, labels, users, source_rows
