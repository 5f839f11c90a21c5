"""A small log with everything in it that a batch can trip over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from torchrec_gr.data.log_source import LogSource, TemporalSplit
from torchrec_gr.data.prepared_log import PreparedLog, prepare
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table


def click_schema(**changes: object) -> FeatureSchema:
    """Users click on items; every role has ids and a number."""
    fields: dict[str, object] = {
        "name": "clicks",
        "labels": ("click",),
        "features": (
            Feature("hour", "contextual"),
            Feature("age", "contextual", kind="dense"),
            Feature("history_item", "history", column="item"),
            Feature("history_tag", "history", column="tag"),
            Feature("history_price", "history", kind="dense", column="price"),
            Feature("item", "candidate"),
            Feature("tag", "candidate"),
            Feature("price", "candidate", kind="dense"),
        ),
        "tables": (Table("hour"), Table("item"), Table("tag")),
        "user": "user",
        "time": "time",
        "time_unit": "s",
        "max_history": 4,
        "target": "history_item",
    }
    return FeatureSchema(**{**fields, **changes})  # type: ignore[arg-type]


def clicks(num_rows: int = 90, num_users: int = 7, seed: int = 0) -> pd.DataFrame:
    """Impressions in no order of time, with many equal times."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user": rng.integers(0, num_users, num_rows) + 100,
            "time": rng.integers(0, 60, num_rows) * 3600,
            "item": rng.integers(0, 30, num_rows),
            "tag": rng.integers(0, 4, num_rows),
            "price": rng.random(num_rows).astype(np.float32),
            "hour": rng.integers(0, 24, num_rows),
            "age": rng.integers(18, 80, num_rows).astype(np.float32),
            "click": rng.integers(0, 2, num_rows),
        }
    )


def prepare_clicks(
    folder: Path,
    rows: pd.DataFrame | None = None,
    schema: FeatureSchema | None = None,
    test_from: int = 40 * 3600,
) -> PreparedLog:
    """Prepares a log of given impressions; a parquet row group, so a block, holds seven rows."""
    path = folder / "rows.parquet"
    (clicks() if rows is None else rows).to_parquet(path, row_group_size=7, index=False)
    source = LogSource(
        schema=schema or click_schema(),
        rows=(path,),
        split=TemporalSplit(validation_from=test_from, test_from=test_from),
    )
    return prepare(source, folder / "work")
