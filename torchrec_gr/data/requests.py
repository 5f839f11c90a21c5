"""Which neighbouring rows of a log are one request: a user at a moment, with several candidates."""

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


def shuffle_requests(
    starts: NDArray[np.bool_], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draws an order of rows that keeps each request's rows together, and in their order: [N]."""
    request = np.cumsum(starts) - 1
    place = generator.permutation(int(starts.sum()))
    return np.argsort(place[request], kind="stable")
