"""Ten days of a log with two labels and computed features, for rankers of windows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from pipelines import compare

CROSS = {"role": "candidate", "kind": "dense", "over": ["user", "item"]}
SCHEMA: dict[str, Any] = {
    "name": "clicks",
    "user": "user",
    "time": "time",
    "time_unit": "s",
    "labels": ["view", "click"],
    "max_history": 8,
    "tables": [{"name": name} for name in ("item", "user", "page", "seen")],
    "request_features": ["page"],
    "features": [
        {"name": "user", "role": "contextual"},
        {"name": "page", "role": "contextual"},
        {"name": "item", "role": "candidate"},
        {"name": "user_item_count", "statistic": "count", **CROSS},
        {"name": "user_item_rate", "statistic": "rate", "of": "click", **CROSS},
        {
            "name": "seen",
            "statistic": "count",
            "kind": "categorical",
            "table": "seen",
            "role": "candidate",
            "over": ["user", "item"],
        },
        {"name": "history_item", "role": "history", "column": "item"},
    ],
    "target": "history_item",
}
DAY = 24 * 3600


def write_clicks(
    folder: Path, settings: Mapping[str, Any], schema: Mapping[str, Any] = SCHEMA
) -> Path:
    """Writes the log, its schema, and a file of these settings that reads them; gives the last."""
    rng = np.random.default_rng(0)
    log = pd.DataFrame(
        {
            "user": rng.integers(0, 40, 900),
            "time": rng.integers(0, 10 * DAY, 900) // 600 * 600,
            "item": rng.integers(0, 20, 900),
            "page": rng.integers(0, 3, 900),
            "view": rng.integers(0, 2, 900),
            "click": rng.integers(0, 2, 900),
        }
    )
    log.to_parquet(folder / "log.parquet")
    (folder / "schema.yaml").write_text(yaml.safe_dump(dict(schema)))
    options = {
        "schema": str(folder / "schema.yaml"),
        "rows": "*.parquet",
        "validation_from": 7 * DAY,
        "test_from": 8 * DAY,
    }
    path = folder / "config.yaml"
    read = {"data": "custom", "data_dir": str(folder), "data_options": options}
    path.write_text(yaml.safe_dump({**settings, **read}))
    return path


def _rows_of(out: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    rows = json.loads((out / "results.json").read_text())
    return {(row["model"], row["strategy"], row["epoch"]): row for row in rows}


def run(config: Path, out: Path, *further: str) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The rows of a comparison, by model, strategy and epoch."""
    compare.main(["--config", str(config), "--out", str(out), *further])
    return _rows_of(out)
