"""Features of a user and a candidate that are computed from the log's past alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchrec_gr.data.cross_buckets import MISSING, count_buckets, rate_buckets, recency_buckets
from torchrec_gr.data.cross_store import CrossStore, Past
from torchrec_gr.data.rows import Rows
from torchrec_gr.schema.feature_schema import TICKS_PER_SECOND, Feature, FeatureSchema
from torchrec_gr.sequences.request_batch import NO_TIME

Key = tuple[str, ...]

PRIOR_WEIGHT = 5.0
"""How many outcomes the rate of everything earlier stands for in a key's rate."""

_EVERYTHING: Key = ()


@dataclasses.dataclass(frozen=True)
class CrossFeatures:
    """The computed features of a log's rows.

    Rows and events count that are strictly earlier than the moment at which the row's history ends;
    so whatever happens from then on changes no value. A recency counts to that moment, too: counted
    to the row's own time it would tell, where histories are frozen, how late a row is. Events
    without a time are earlier than everything, and are never the last one. Ids count as they are in
    the log, those unknown to training too. As numbers they have the scale of one, rare outcomes
    too: nothing needs to standardise them.

    Args:
        features: the schema's computed ones.
        ticks_per_second: of the log's times.
        moments: [M] int64, the different times of what counts, sorted.
        stores: key -> what happened to its values; () is one value for everything.

    Source: the cross features of MTGR (2505.18654, section 3.1), computed from a log.
    """

    features: tuple[Feature, ...]
    ticks_per_second: int
    moments: NDArray[np.int64]
    stores: Mapping[Key, CrossStore]

    def fill(self, rows: Rows, known_before: NDArray[np.int64]) -> Rows:
        """The rows with their computed features.

        Args:
            rows: N of the log.
            known_before: [N] int64, the moment that each row's history ends before.
        """
        moments = np.searchsorted(self.moments, known_before)
        pasts = {key: self._past(key, rows, moments) for key in self.stores}
        ids, dense = dict(rows.ids), dict(rows.dense)
        for feature in self.features:
            past = pasts[feature.over]
            if feature.kind == "categorical":
                buckets = self._buckets(feature, past, known_before)
                ids[feature.name] = np.where(past.has_key, buckets, MISSING)
            else:
                numbers = self._numbers(feature, past, pasts.get(_EVERYTHING), known_before)
                dense[feature.name] = numbers.astype(np.float32)
        return dataclasses.replace(rows, ids=ids, dense=dense)

    def _past(self, key: Key, rows: Rows, moments: NDArray[np.int64]) -> Past:
        numbers = rows.source_rows if key else np.zeros(len(rows), np.int64)
        return self.stores[key].before(numbers, moments)

    def _buckets(
        self, feature: Feature, past: Past, known_before: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        if feature.statistic == "count":
            return count_buckets(past.counts)
        if feature.statistic == "recency":
            return recency_buckets(self._seconds_since(past, known_before))
        assert feature.of is not None  # the schema checks it
        return rate_buckets(*past.outcomes[feature.of])

    def _numbers(
        self, feature: Feature, past: Past, everything: Past | None, known_before: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        if feature.statistic == "count":
            return np.log1p(past.counts)
        if feature.statistic == "recency":
            seconds = self._seconds_since(past, known_before)
            return np.where(np.isnan(seconds), 0, 1 / (1 + np.log1p(seconds)))
        assert feature.of is not None  # the schema checks it
        assert everything is not None  # `outcomes_of_keys` sees to it
        return _lift(*past.outcomes[feature.of], *everything.outcomes[feature.of])

    def _seconds_since(self, past: Past, known_before: NDArray[np.int64]) -> NDArray[np.float64]:
        """[N] float64 from the last one to the moments; NaN: there is none of a known time."""
        seconds = np.full(len(known_before), np.nan)
        has_last = past.last >= 0
        last = self.moments[past.last[has_last]]
        since = (known_before[has_last] - last) / self.ticks_per_second
        seconds[has_last] = np.where(last == NO_TIME, np.nan, since)
        return seconds

    @classmethod
    def load(cls, folder: Path, schema: FeatureSchema) -> CrossFeatures:
        """Maps what `write_crosses` wrote into memory."""
        moments: NDArray[Any] = np.load(folder / "moments.npy", mmap_mode="r", allow_pickle=False)
        return cls(
            features=schema.computed,
            ticks_per_second=TICKS_PER_SECOND[schema.time_unit],
            moments=moments,
            stores={
                key: CrossStore.load(folder / f"key-{i}", len(moments), outcomes)
                for i, (key, outcomes) in enumerate(outcomes_of_keys(schema).items())
            },
        )


def _lift(
    positives: NDArray[np.int64],
    known: NDArray[np.int64],
    all_positives: NDArray[np.int64],
    all_known: NDArray[np.int64],
) -> NDArray[np.float64]:
    """[N]: by how much the log-odds of a key's smoothed rate exceed those of everything's."""
    prior = (all_positives + 0.5) / (all_known + 1)  # neither 0 nor 1
    rate = prior + (positives - known * prior) / (known + PRIOR_WEIGHT)
    return np.log(rate / (1 - rate)) - np.log(prior / (1 - prior))


def outcomes_of_keys(schema: FeatureSchema) -> dict[Key, list[str]]:
    """Key -> the outcomes that it has rates of; with any rate also (), which has them all."""
    outcomes: dict[Key, list[str]] = {}
    for feature in schema.computed:
        for key in (feature.over, _EVERYTHING) if feature.of else (feature.over,):
            known = outcomes.setdefault(key, [])
            if feature.of and feature.of not in known:
                known.append(feature.of)
    return outcomes
