"""A log of clicks whose schema has every kind of computed feature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.data.clicks import click_schema, clicks
from torchrec_gr.data.log_source import LogSource, TemporalSplit
from torchrec_gr.data.prepared_log import PreparedLog, prepare
from torchrec_gr.schema import Feature, FeatureSchema, Table
from torchrec_gr.schema.feature_schema import KINDS
from torchrec_gr.sequences.request_batch import NO_TIME

KEYS = (("user",), ("item",), ("tag",), ("user", "tag"), ("user", "item", "hour"))
TEST_FROM = 40 * 3600


def computed_features(keys: tuple[tuple[str, ...], ...] = KEYS) -> tuple[Feature, ...]:
    """Every statistic of every key, as numbers and as buckets."""
    features = []
    for key in keys:
        for kind in KINDS:
            name = f"{'_'.join(key)}_{kind}"
            features += [
                Feature(f"count_{name}", "candidate", kind, statistic="count", over=key),
                Feature(f"recency_{name}", "candidate", kind, statistic="recency", over=key),
                *(
                    Feature(f"{of}_{name}", "candidate", kind, statistic="rate", over=key, of=of)
                    for of in ("click", "like")
                ),
            ]
    return tuple(features)


def crossed_schema(computed: tuple[Feature, ...] | None = None, **changes: Any) -> FeatureSchema:
    """The schema of clicks, with computed features."""
    computed = computed_features() if computed is None else computed
    schema = click_schema()
    return click_schema(
        features=(*schema.features, *computed),
        tables=(*schema.tables, *(Table(f.table) for f in computed if f.table)),
        **changes,
    )


def crossed_rows(num_rows: int = 120, seed: int = 0) -> pd.DataFrame:
    """Rows in no order of time, with equal times; half have no tag, and some no known like."""
    rng = np.random.default_rng(seed)
    frame = clicks(num_rows, num_users=5, seed=seed)
    frame["item"] = rng.integers(0, 9, num_rows)
    frame["hour"] = rng.integers(0, 2, num_rows)
    frame["time"] = rng.integers(0, 60, num_rows) * 3600 + rng.integers(0, 2, num_rows)
    frame["tag"] = frame["tag"].astype("Int64").mask(rng.random(num_rows) < 0.5)
    like = pd.Series(rng.integers(0, 2, num_rows), dtype="Int64")
    return frame.assign(like=like.mask(rng.random(num_rows) < 0.3))


def crossed_events(num_events: int = 20, seed: int = 1) -> pd.DataFrame:
    """Earlier events, most without a time; they know clicks, but neither hours nor likes."""
    rows = crossed_rows(num_events, seed).drop(columns=["hour", "like", "age"])
    known = np.arange(num_events) % 4 == 0
    return rows.assign(time=np.where(known, rows["time"], NO_TIME))


def prepare_crossed(
    folder: Path,
    rows: pd.DataFrame,
    events: tuple[pd.DataFrame, ...] = (),
    schema: FeatureSchema | None = None,
    **fields: Any,
) -> PreparedLog:
    """Prepares a log of given rows and files of events, in blocks of seven."""
    folder.mkdir(exist_ok=True)
    frames = {"rows": rows} | {f"events-{i}": frame for i, frame in enumerate(events)}
    for name, frame in frames.items():
        frame.to_parquet(folder / f"{name}.parquet", row_group_size=7, index=False)
    source = LogSource(
        schema=schema or crossed_schema(),
        rows=(folder / "rows.parquet",),
        split=TemporalSplit(validation_from=TEST_FROM - 7200, test_from=TEST_FROM),
        events=tuple(folder / f"events-{i}.parquet" for i in range(len(events))),
        **fields,
    )
    return prepare(source, folder / "work")


def cross_values(log: PreparedLog, crosses: Any = None) -> dict[str, np.ndarray]:
    """Computed feature -> [rows of the log], as known at each row's own time."""
    blocks = [log.read_block(i) for i in range(len(log.blocks))]
    filled = [(crosses or log.crosses).fill(rows, rows.times) for rows in blocks]
    return {
        f.name: np.concatenate([{**rows.ids, **rows.dense}[f.name] for rows in filled])
        for f in log.schema.computed
    }
