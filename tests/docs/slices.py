"""Small logs in the place of the reader's: the first users of real data, and one made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

NUM_USERS = 60


def write_kuairand(full: Path, small: Path) -> None:
    """Users of as many moments as there are, with all that they did."""
    _copy_users(full, small, ("impressions_0425_0508", "user_features", "user_history_0409_0424"))
    _copy(full / "video_features_basic.parquet", small)


def write_amazon(full: Path, small: Path) -> None:
    """Beauty's first users, and all items."""
    _copy_users(full, small, ("amazon-beauty_sequences",))
    _copy(full / "amazon-beauty_items.parquet", small)


def write_movielens(full: Path, small: Path) -> None:
    """The first users' ratings, and all films."""
    _copy_users(full, small, ("ratings", "users"))
    _copy(full / "movies.parquet", small)


def write_criteo(full: Path, small: Path) -> None:
    """Some rows of each of the file's parts."""
    rows = pd.read_parquet(full / "criteo_80k.parquet")
    rows.groupby("part", sort=False).head(150).to_parquet(small / "criteo_80k.parquet")


def _copy_users(full: Path, small: Path, tables: tuple[str, ...]) -> None:
    first = pq.read_table(full / f"{tables[0]}.parquet", columns=["user_id"])["user_id"]
    kept = pa.array(sorted(first.unique().to_pylist())[:NUM_USERS])
    for name in tables:
        table = pq.read_table(
            full / f"{name}.parquet", filters=[("user_id", "in", kept.to_pylist())]
        )
        pq.write_table(table, small / f"{name}.parquet")


def _copy(file: Path, small: Path) -> None:
    (small / file.name).symlink_to(file)


SLICES: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "kuairand-pure": ("kuairand-pure", write_kuairand),
    "amazon-beauty": ("amazon-reviews", write_amazon),
    "movielens": ("ml-1m", write_movielens),
    "criteo": ("criteo-80k", write_criteo),
}
"""`--data` -> the folder of the real data, and who writes a small one from it."""


def write_clicks(folder: Path) -> None:
    """`logs` of the guides: four days of clicks, with the columns of their schemas."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    pd.DataFrame(
        {
            "user_id": rng.integers(0, 40, 900),
            "item_id": rng.integers(0, 60, 900),
            "category": rng.integers(0, 5, 900),
            "price": rng.uniform(1, 9, 900),
            "click": rng.integers(0, 2, 900),
            "time_ms": 1_714_521_600_000 + rng.integers(0, 4 * 86_400_000, 900),  # 2024-05-01 on
        }
    ).to_parquet(folder / "clicks.parquet")
