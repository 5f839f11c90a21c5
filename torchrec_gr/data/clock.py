"""Hours and days by the clock of a log."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from torchrec_gr.schema.feature_schema import TICKS_PER_SECOND, FeatureSchema

DAY_HOURS = 24.0


def ticks(schema: FeatureSchema, hours: float) -> int:
    """So many hours in the log's unit of time, which must not be an order."""
    return round(hours * 3600 * TICKS_PER_SECOND[schema.time_unit])


def period(schema: FeatureSchema, times: NDArray[np.int64], hours: float) -> NDArray[np.int64]:
    """[N] int64: the number of the stretch of so many hours, counted by the clock, of each time."""
    return (times + ticks(schema, schema.utc_offset_hours)) // ticks(schema, hours)


def day_start(schema: FeatureSchema, times: NDArray[np.int64]) -> NDArray[np.int64]:
    """[N] int64: when the day of each time began."""
    days = period(schema, times, DAY_HOURS)
    return days * ticks(schema, DAY_HOURS) - ticks(schema, schema.utc_offset_hours)
