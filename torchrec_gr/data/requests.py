"""Which rows of a log belong together: those of one request, and those of one history."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchrec_gr.data.rows import Rows
from torchrec_gr.schema.feature_schema import FeatureSchema


def request_starts(schema: FeatureSchema, rows: Rows) -> NDArray[np.bool_]:
    """Where a request begins: [N] bool.

    A row goes on with the request before it if user, time and every contextual feature are the
    same. Rows of no user are requests of their own.
    """
    starts = np.ones(len(rows), np.bool_)
    if len(rows) < 2:
        return starts
    columns: list[NDArray[Any]] = [rows.user_index, rows.times]
    columns += [rows.ids[feature.name] for feature in schema.of("contextual")]
    columns += [rows.dense[feature.name] for feature in schema.of("contextual", "dense")]
    starts[1:] = rows.user_index[1:] < 0
    for column in columns:
        starts[1:] |= column[1:] != column[:-1]
    return starts


def same_history(
    user_index: NDArray[np.int64], known_before: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Which rows have one history: [N] int64, a number for each user and moment.

    Args:
        user_index: [N] int64; rows of no user (-1) are alone.
        known_before: [N] int64, the moment that each row's history ends before.
    """
    nobody = user_index < 0
    user = np.where(nobody, -1 - np.arange(len(user_index)), user_index)
    order = np.lexsort((known_before, user))
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (np.diff(user[order]) != 0) | (np.diff(known_before[order]) != 0)
    group = np.empty(len(order), np.int64)
    group[order] = np.cumsum(begins) - 1
    return group


def shuffle_groups(group: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Draws an order of rows that keeps each group's rows together, and in their order: [N].

    Args:
        group: [N] int64, every number from 0 to the greatest at least once.
        generator: draws it.
    """
    place = generator.permutation(int(group.max(initial=-1)) + 1)
    return np.argsort(place[group], kind="stable")
