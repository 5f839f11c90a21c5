"""What a metric accepts: labels of 0 and 1, as many scores, and users."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Vector: TypeAlias = npt.NDArray[Any] | torch.Tensor


def binary_labels(labels: Vector) -> npt.NDArray[np.bool_]:
    """Labels as booleans.

    Args:
        labels: [N] of any number type, 0 or 1, at least one.

    Returns:
        [N] bool.

    Raises:
        ValueError: no labels, more than one dimension, or a label that is neither 0 nor 1.
    """
    values = _one_dimensional("labels", labels)
    if values.size == 0:
        raise ValueError("a metric of no rows is undefined: labels and scores are empty")
    positive = values == 1
    bad = np.flatnonzero(~positive & (values != 0))
    if bad.size:
        raise ValueError(
            f"labels must be 0 or 1: row {bad[0]} holds {values[bad[0]]} "
            f"({bad.size} of {values.size} rows are wrong)"
        )
    return positive


def real_scores(scores: Vector, num_rows: int, name: str = "scores") -> npt.NDArray[Any]:
    """Scores or logits, one a row, in their own precision (so that their ties stay ties).

    Args:
        scores: [N] numbers; infinities can be ranked, NaN cannot.
        num_rows: N, the number of labels.
        name: what the caller calls them.

    Returns:
        [N] of the type given; bfloat16 as float32.

    Raises:
        ValueError: not one score a label, or a NaN.
    """
    values = _one_dimensional(name, scores)
    if values.size != num_rows:
        raise ValueError(f"{name} must be one a label: {values.size} for {num_rows} labels")
    if values.dtype.kind == "f":
        bad = np.flatnonzero(np.isnan(values))
        if bad.size:
            raise ValueError(
                f"{name} must be numbers: row {bad[0]} is NaN ({bad.size} of {values.size} rows "
                "are); did the model diverge?"
            )
    return values


def group_codes(user_ids: Vector, num_rows: int) -> tuple[npt.NDArray[np.int64], int]:
    """Users numbered 0, 1, ... in sorted order.

    Args:
        user_ids: [N] integers or strings.
        num_rows: N, the number of labels.

    Returns:
        [N] int64 user numbers, and how many users there are.

    Raises:
        ValueError: not one user a label.
    """
    values = _one_dimensional("user_ids", user_ids)
    if values.size != num_rows:
        raise ValueError(f"user_ids must be one a label: {values.size} for {num_rows} labels")
    users, codes = np.unique(values, return_inverse=True)
    return codes.astype(np.int64, copy=False), users.size


def _one_dimensional(name: str, values: Vector) -> npt.NDArray[Any]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(
            f"{name} must have one dimension, got shape {list(array.shape)}: "
            "take one task's column at a time"
        )
    return array
