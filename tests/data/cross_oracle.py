"""Cross features straight from their definition: a loop over everything earlier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from torchrec_gr.data.cross_features import PRIOR_WEIGHT
from torchrec_gr.schema import Feature
from torchrec_gr.sequences.request_batch import NO_TIME

Entry = Mapping[str, Any]
"""A row or an event: column -> value. A column that it does not know is null or left out."""


def entries(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame, without what is null."""
    return [
        {column: value for column, value in row.items() if not pd.isna(value)}
        for row in frame.to_dict("records")
    ]


def cross_value(feature: Feature, row: Entry, known_before: int, log: Sequence[Entry]) -> float:
    """The number, or the bucket, of one row."""
    has_key = all(column in row for column in feature.over)
    earlier = [entry for entry in log if entry["time"] < known_before]
    same = [
        entry
        for entry in earlier
        if has_key and all(entry.get(column) == row[column] for column in feature.over)
    ]
    categorical = feature.kind == "categorical"
    if categorical and not has_key:
        return 0
    if feature.statistic == "count":
        return _count_bucket(len(same)) if categorical else math.log1p(len(same))
    if feature.statistic == "rate":
        outcomes = [entry[feature.of] for entry in same if feature.of in entry]
        everything = [entry[feature.of] for entry in earlier if feature.of in entry]
        return _rate_bucket(outcomes) if categorical else _rate(outcomes, everything)
    times = [entry["time"] for entry in same if entry["time"] != NO_TIME]
    seconds = known_before - max(times) if times else None
    if categorical:
        return 1 if seconds is None else 2 + math.floor(math.log2(1 + seconds))
    return 0.0 if seconds is None else 1 / (1 + math.log1p(seconds))


def _count_bucket(count: int) -> int:
    return 2 + math.floor(math.log2(count)) if count else 1


def _rate_bucket(outcomes: list[int]) -> int:
    if not outcomes:
        return 1
    octave = min(math.floor(math.log2(len(outcomes))), 7)
    step = max(step for step in range(20) if (step / 20) ** 2 <= sum(outcomes) / len(outcomes))
    return 2 + 20 * octave + step


def _rate(outcomes: list[int], everything: list[int]) -> float:
    prior = (sum(everything) + 0.5) / (len(everything) + 1)
    rate = (sum(outcomes) + PRIOR_WEIGHT * prior) / (len(outcomes) + PRIOR_WEIGHT)
    return math.log(rate / (1 - rate)) - math.log(prior / (1 - prior))
