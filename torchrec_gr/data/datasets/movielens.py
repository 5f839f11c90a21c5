"""MovieLens: each rating is an impression, liked if it is four stars or more.

Official files carry times and are split by them. The parquet layout knows only each user's order:
there the newest tenth of each user's ratings is the test set and the tenth before it the validation
set, so that a test rating of one user may be older than a training rating of another. For the
protocol of next-item tables, each user's last rating can be the test set, of either layout.

Source: Harper and Konstan, "The MovieLens Datasets: History and Context" (TiiS 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv

from torchrec_gr.data.datasets.canonical import (
    find_file,
    missing,
    read_columns,
    require_file,
    write_parquet,
)
from torchrec_gr.data.log_source import (
    TEST,
    TRAIN,
    VALIDATION,
    ColumnSplit,
    LogSource,
    TemporalSplit,
)
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table, nearest_valid

LIKED_FROM = 4.0
VALIDATION_QUANTILE, TEST_QUANTILE = 0.8, 0.9
NO_GENRE = "(no genres listed)"
Split = Literal["share", "last"]
_USER_COLUMNS = ("gender", "age", "occupation")


def load(
    data_dir: Path, work_dir: Path, *, split: Split = "share", max_history: int = 50
) -> LogSource:
    """Reads ratings, movies and, where the publisher has them, users.

    Args:
        data_dir: holds the official `ratings.dat` and `movies.dat` (fields between `::`; with
            `users.dat` in MovieLens 1M) or `ratings.csv` and `movies.csv`; or parquet of the same
            names, whose ratings have `order_pos`, the place in the user's order, and no time.
        work_dir: where the canonical parquet is written.
        split: "share" is that of the layout; "last": each user's last rating is the test set, the
            one before it the validation set.
        max_history: ratings that a history keeps.

    Raises:
        ValueError: files that are missing or damaged, or a split that is not known.
    """
    if split not in get_args(Split):
        raise ValueError(nearest_valid("split", split, get_args(Split)))
    path = _find_ratings(data_dir)
    ratings = _read_ratings(path)
    movies = _read_movies(require_file(path.parent, f"movies{path.suffix}"))
    users = _read_users(path.with_name(f"users{path.suffix}"))
    dropped = {}
    if ordered := path.suffix == ".parquet":
        placed = ratings.dropna(subset="time")
        dropped["rating without a place in the user's order"] = len(ratings) - len(placed)
        ratings = placed
    rows = _canonical(ratings, movies, users)
    splitting: TemporalSplit | ColumnSplit = ColumnSplit("split")
    if split == "last" or ordered:
        rows["split"] = _split_each_user(rows, newest=10 if split == "share" else None)
    else:
        borders = (_time_at(rows, quantile) for quantile in (VALIDATION_QUANTILE, TEST_QUANTILE))
        splitting = TemporalSplit(*borders)
    table = pa.Table.from_pandas(rows, preserve_index=False)
    return LogSource(
        schema=_schema(ordered, users is not None, max_history),
        rows=(write_parquet(table, work_dir / "movielens_rows.parquet"),),
        split=splitting,
        dropped=dropped,
    )


def _find_ratings(data_dir: Path) -> Path:
    path = find_file(data_dir, "ratings.dat", "ratings.csv", "ratings.parquet")
    if path is None:
        raise missing(
            "movielens",
            data_dir,
            "GroupLens as MovieLens 1M, 10M, 20M, 25M or 32M at https://grouplens.org/datasets",
            "ratings.dat (user::movie::rating::time) with movies.dat, or ratings.csv (userId, "
            "movieId, rating, timestamp) with movies.csv; or ratings.parquet (user_id, movie_id, "
            "rating, order_pos), movies.parquet and users.parquet",
        )
    return path


def _read_ratings(path: Path) -> pd.DataFrame:
    """[N] user_id, movie_id, rating, time (of a parquet file: the place in the user's order)."""
    names = ["user_id", "movie_id", "rating", "time"]
    if path.suffix == ".parquet":
        table = read_columns(path, ("user_id", "movie_id", "rating", "order_pos"))
    elif path.suffix == ".csv":
        table = read_columns(path, ("userId", "movieId", "rating", "timestamp"))
    else:
        table = _read_dat_numbers(path, names)
    return table.rename_columns(names).to_pandas()


def _read_dat_numbers(path: Path, names: Sequence[str]) -> pa.Table:
    """Numbers between `::`, which to a reader of one-letter delimiters are every other field."""
    fields = [part for name in names for part in (name, f"after_{name}")][:-1]
    types = {name: pa.float64() if name == "rating" else pa.int64() for name in names}
    try:
        return pa_csv.read_csv(
            path,
            read_options=pa_csv.ReadOptions(column_names=fields),
            parse_options=pa_csv.ParseOptions(delimiter=":"),
            convert_options=pa_csv.ConvertOptions(include_columns=names, column_types=types),
        )
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: expected lines of {'::'.join(names)} ({error})") from error


def _read_movies(path: Path) -> pd.Series:
    """The first genre of each movie, by movie; null where none is listed."""
    if path.suffix == ".dat":
        movies = _read_dat_text(path, ("movie_id", "title", "genres"))
    else:
        key = "movieId" if path.suffix == ".csv" else "movie_id"
        movies = read_columns(path, (key, "genres")).to_pandas().rename(columns={key: "movie_id"})
    genre = movies["genres"].astype("string").str.split("|").str[0]
    genre = genre.where(genre != NO_GENRE)
    return genre.set_axis(movies["movie_id"].astype("int64"))


def _read_users(path: Path) -> pd.DataFrame | None:
    """Gender, age bucket and occupation by user; None where the publisher gives none."""
    if not path.is_file():
        return None
    if path.suffix == ".dat":
        users = _read_dat_text(path, ("user_id", *_USER_COLUMNS, "zip"))
    else:
        users = read_columns(path, ("user_id", *_USER_COLUMNS)).to_pandas()
    users = users.astype({"user_id": "int64", "age": "int64", "occupation": "int64"})
    return users.astype({"gender": "string"}).set_index("user_id")[list(_USER_COLUMNS)]


def _read_dat_text(path: Path, names: Sequence[str]) -> pd.DataFrame:
    """Fields between `::`, of which titles may hold a single colon."""
    lines = path.read_text(encoding="latin-1").splitlines()
    fields = [line.split("::") for line in lines]
    for number, parts in enumerate(fields, 1):
        if len(parts) != len(names):
            raise ValueError(
                f"{path}, line {number}: expected {'::'.join(names)}, got {lines[number - 1]!r}"
            )
    return pd.DataFrame(fields, columns=list(names))


def _canonical(
    ratings: pd.DataFrame, movies: pd.Series, users: pd.DataFrame | None
) -> pd.DataFrame:
    rows = ratings[["user_id", "movie_id", "time"]].astype("int64").reset_index(drop=True)
    stars = ratings["rating"].to_numpy(np.float64)
    rows["half_stars"] = (2 * stars).round().astype(np.int64)
    rows["liked"] = (stars >= LIKED_FROM).astype(np.int64)
    rows["genre"] = movies.reindex(rows["movie_id"]).array
    if users is not None:
        of_user = users.reindex(rows["user_id"]).reset_index(drop=True)
        of_user = of_user.astype({"age": "Int64", "occupation": "Int64"})
        rows = pd.concat([rows, of_user], axis=1)
    return rows.sort_values(["time", "user_id"], kind="stable", ignore_index=True)


def _split_each_user(rows: pd.DataFrame, newest: int | None) -> np.ndarray:
    """[N] the split of each rating: a user's newest test, as many before them validation.

    Args:
        rows: sorted by time.
        newest: one of so many of a user's ratings is tested, one at least; None: just one.
    """
    by_user = rows.groupby("user_id")
    newest_first = by_user.cumcount(ascending=False) + 1
    sizes = by_user["time"].transform("size")
    share = np.ones_like(sizes) if newest is None else np.maximum(sizes // newest, 1)
    late = [newest_first <= share, newest_first <= 2 * share]
    return np.select(late, [TEST, VALIDATION], TRAIN).astype(object)


def _time_at(rows: pd.DataFrame, quantile: float) -> int:
    times = rows["time"].to_numpy()  # sorted
    return int(times[int(quantile * len(times))])


def _schema(ordered: bool, has_users: bool, max_history: int) -> FeatureSchema:
    contextual = ("user_id", *(_USER_COLUMNS if has_users else ()))
    candidate = ("movie_id", "genre")
    history = ("movie_id", "genre", "half_stars")
    return FeatureSchema(
        name="movielens",
        labels=("liked",),
        features=(
            *(Feature(name, "contextual") for name in contextual),
            *(Feature(name, "candidate") for name in candidate),
            *(Feature(f"history_{name}", "history", column=name) for name in history),
        ),
        tables=tuple(Table(name) for name in (*contextual, *candidate, "half_stars")),
        user="user_id",
        time="time",
        time_unit="order" if ordered else "s",
        max_history=max_history,
        target="history_movie_id",
        side_target="history_genre",
    )
