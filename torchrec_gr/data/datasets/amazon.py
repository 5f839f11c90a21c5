"""Amazon reviews, Beauty and Sports: GPSD's ranking protocol, the user's last item or another.

Each user gives two rows: the last reviewed item (label 1) and one item drawn uniformly from all
others (label 0); the earlier items are the history. Random negatives reward popularity, so there is
a further test set, `test_popularity_matched`: the test users' positives against negatives drawn
from the test users' own last items.

There is no user id among the features: a test user's id is never trained.

Source: GPSD (arXiv 2506.03699), the ranking samples of its public data sets. Here users are split
at random rather than by the time of their last event; the data: McAuley et al., "Image-based
Recommendations on Styles and Substitutes" (SIGIR 2015), 5-core.
"""

from __future__ import annotations

import ast
import dataclasses
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from torchrec_gr.data.datasets.canonical import find_file, missing, read_columns, write_parquet
from torchrec_gr.data.log_source import TEST, TRAIN, VALIDATION, ColumnSplit, LogSource
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table

POPULARITY_MATCHED = f"{TEST}_popularity_matched"
TEST_SHARE = 0.3
VALIDATION_SHARE = 0.05
MIN_REVIEWS = 5


@dataclasses.dataclass(frozen=True)
class _Sequences:
    """Every user's items, oldest first.

    Args:
        users: [U] raw user ids.
        starts: [U + 1] int64; the items of user u are items[starts[u]:starts[u + 1]].
        items: [E] raw item ids.
        dropped: reason -> how many reviews are left out.
    """

    users: NDArray[np.generic]
    starts: NDArray[np.int64]
    items: NDArray[np.generic]
    dropped: dict[str, int]


def load_beauty(
    data_dir: Path, work_dir: Path, category: bool = False, seed: int = 0, split_seed: int = 0
) -> LogSource:
    """Beauty: 22,363 users, 12,101 items, 198,502 reviews; arguments as `load`."""
    return load("Beauty", data_dir, work_dir, category, seed, split_seed)


def load_sports(
    data_dir: Path, work_dir: Path, category: bool = False, seed: int = 0, split_seed: int = 0
) -> LogSource:
    """Sports and Outdoors: 35,598 users, 18,357 items, 296,337 reviews; arguments as `load`."""
    return load("Sports_and_Outdoors", data_dir, work_dir, category, seed, split_seed)


def load(
    domain: str,
    data_dir: Path,
    work_dir: Path,
    category: bool = False,
    seed: int = 0,
    split_seed: int = 0,
) -> LogSource:
    """Reads the official reviews or ready-made sequences, and draws users' splits and negatives.

    Args:
        domain: the publisher's name of it: Beauty or Sports_and_Outdoors.
        data_dir: holds `reviews_<domain>_5.json`, also gzipped, or `ratings_<domain>.csv` (reduced
            to its 5-core here), with `meta_<domain>.json` beside it where `category` is asked for;
            or parquet of sequences and items (`amazon-beauty_sequences.parquet`, ...).
        work_dir: where the canonical parquet is written.
        category: an item's category is a side feature, and predicted in pretraining.
        seed: of the negatives.
        split_seed: of the split of the users: 30% test, 5% validation, the others train.

    Raises:
        ValueError: files that are missing or damaged.
    """
    name = "amazon-" + domain.split("_")[0].lower()
    sequences, categories = _read(name, domain, data_dir, category)
    splits = _split_users(len(sequences.users), split_seed)
    rows = _ranking_rows(sequences, splits, seed)
    events = _history_events(sequences, splits)
    if categories is not None:
        for table in (rows, events):
            table["category"] = categories.reindex(table["item_id"]).to_numpy()
    return LogSource(
        schema=_schema(name, category),
        rows=(write_parquet(_arrow(rows), work_dir / f"{name}_rows.parquet"),),
        split=ColumnSplit("split"),
        events=(write_parquet(_arrow(events), work_dir / f"{name}_events.parquet"),),
        rows_are_events=False,
        event_split="split",
        dropped=sequences.dropped,
    )


def _arrow(table: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(table, preserve_index=False)


def _read(
    name: str, domain: str, data_dir: Path, category: bool
) -> tuple[_Sequences, pd.Series | None]:
    official = find_file(
        data_dir, f"reviews_{domain}_5.json.gz", f"reviews_{domain}_5.json", f"ratings_{domain}.csv"
    )
    if official is not None:
        log = _read_ratings(official) if official.suffix == ".csv" else _read_reviews(official)
        return _group(log), _read_metadata(name, domain, data_dir) if category else None
    shared = find_file(data_dir, f"{name}_sequences.parquet")
    if shared is not None:
        return _read_sequences(shared), _read_attributes(shared, name) if category else None
    raise missing(
        name,
        data_dir,
        "McAuley as the Amazon product data of 2014 at https://jmcauley.ucsd.edu/data/amazon",
        f"reviews_{domain}_5.json.gz (a review a line: reviewerID, asin, unixReviewTime) or "
        f"ratings_{domain}.csv (user, item, rating, time); or {name}_sequences.parquet (user_id, "
        f"item_ids oldest first) and {name}_items.parquet (item_id, attribute_ids)",
    )


def _read_reviews(path: Path) -> pd.DataFrame:
    """[E] user, item, time of a file with a JSON object a line, in the file's order."""
    reviews = [
        (review["reviewerID"], review["asin"], int(review["unixReviewTime"]))
        for review in _json_lines(path, ("reviewerID", "asin", "unixReviewTime"))
    ]
    return pd.DataFrame(reviews, columns=["user", "item", "time"])


def _read_ratings(path: Path) -> pd.DataFrame:
    """[E] user, item, time of a csv without a header: user, item, rating, time."""
    names = ["user", "item", "rating", "time"]
    types = {"user": pa.string(), "item": pa.string(), "time": pa.int64()}
    try:
        table = pa_csv.read_csv(
            path,
            read_options=pa_csv.ReadOptions(column_names=names),
            convert_options=pa_csv.ConvertOptions(column_types=types),
        )
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: expected lines of user, item, rating, time without a header ({error})"
        ) from error
    return table.to_pandas()[["user", "item", "time"]]


def _json_lines(path: Path, needed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The objects of a file, JSON or (as the metadata is published) Python literals."""
    for number, line in enumerate(_lines(path), 1):
        try:
            value = json.loads(line) if line.startswith('{"') else ast.literal_eval(line)
            lacking = [key for key in needed if key not in value]
        except (ValueError, SyntaxError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: expected an object a line, got {line[:80]!r} ({error})"
            ) from error
        if lacking:
            raise ValueError(f"{path}, line {number}: expected a value of {', '.join(lacking)}")
        yield value


def _lines(path: Path) -> Iterator[str]:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as file:
                yield from file
        else:
            with open(path, encoding="utf-8") as file:
                yield from file
    except (EOFError, OSError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again") from error


def _group(log: pd.DataFrame) -> _Sequences:
    """The 5-core of a log, each user's items in time order; ties keep the file's order."""
    num_reviews = len(log)
    while True:
        per_user = log.groupby("user")["item"].transform("size")
        per_item = log.groupby("item")["user"].transform("size")
        kept = log[(per_user >= MIN_REVIEWS) & (per_item >= MIN_REVIEWS)]
        if len(kept) == len(log):
            break
        log = kept
    if log.empty:
        raise ValueError(
            f"none of the {num_reviews} reviews is of a user and an item of {MIN_REVIEWS} or more "
            "reviews each: is the file whole?"
        )
    log = log.sort_values(["user", "time"], kind="stable")
    users, starts = np.unique(log["user"].to_numpy(str), return_index=True)
    return _Sequences(
        users=users,
        starts=np.append(starts, len(log)).astype(np.int64),
        items=log["item"].to_numpy(str),
        dropped={f"review outside the {MIN_REVIEWS}-core": num_reviews - len(log)},
    )


def _read_sequences(path: Path) -> _Sequences:
    table = read_columns(path, ("user_id", "item_ids"))
    lists = table["item_ids"].combine_chunks()
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    return _Sequences(
        users=table["user_id"].to_numpy().astype(np.int64),
        starts=np.append(0, np.cumsum(lengths)).astype(np.int64),
        items=lists.flatten().to_numpy().astype(np.int64),
        dropped={},
    )


def _read_attributes(sequences: Path, name: str) -> pd.Series:
    """The first attribute of each item, by item."""
    path = sequences.with_name(f"{name}_items.parquet")
    items = read_columns(path, ("item_id", "attribute_ids")).to_pandas()
    return items.set_index("item_id")["attribute_ids"].str[0].astype("Int64")


def _read_metadata(name: str, domain: str, data_dir: Path) -> pd.Series:
    """The category under the domain's root that each item is first filed under, by item."""
    path = find_file(data_dir, f"meta_{domain}.json.gz", f"meta_{domain}.json")
    if path is None:
        raise missing(
            name,
            data_dir,
            "McAuley as the Amazon product data of 2014 at https://jmcauley.ucsd.edu/data/amazon",
            f"meta_{domain}.json.gz (an item a line: asin, categories), or category left off",
        )
    categories = {}
    for item in _json_lines(path, ("asin",)):
        filed = (item.get("categories") or [[]])[0]
        categories[item["asin"]] = filed[min(1, len(filed) - 1)] if filed else None
    return pd.Series(categories, dtype="string")


def _split_users(num_users: int, seed: int) -> NDArray[np.object_]:
    """[U] the split of each user, drawn at random."""
    order = np.random.default_rng(seed).permutation(num_users)
    num_test = round(TEST_SHARE * num_users)
    num_validation = round(VALIDATION_SHARE * num_users)
    splits = np.full(num_users, TRAIN, object)
    splits[order[:num_test]] = TEST
    splits[order[num_test : num_test + num_validation]] = VALIDATION
    return splits


def _ranking_rows(sequences: _Sequences, splits: NDArray[np.object_], seed: int) -> pd.DataFrame:
    """Two rows a user: the last item and a negative; for test users twice."""
    rng = np.random.default_rng(seed)
    last = sequences.items[sequences.starts[1:] - 1]
    catalogue = np.unique(sequences.items)
    negatives = _draw_other(rng, last, catalogue)
    test = np.flatnonzero(splits == TEST)
    matched = _draw_other(rng, last[test], last[test])
    everyone = np.arange(len(last))
    return pd.concat(
        [
            _pairs(sequences, everyone, last, negatives, splits),
            _pairs(
                sequences, test, last[test], matched, np.full(len(test), POPULARITY_MATCHED, object)
            ),
        ],
        ignore_index=True,
    )


def _draw_other(
    rng: np.random.Generator, positives: NDArray[np.generic], pool: NDArray[np.generic]
) -> NDArray[np.generic]:
    """[N] a uniform draw from `pool` for each positive, other than it."""
    if not np.any(pool != pool[:1]):
        raise ValueError("the users' last items are all one item: no other can be drawn against it")
    drawn = pool[rng.integers(len(pool), size=len(positives))]
    while (same := np.flatnonzero(drawn == positives)).size:
        drawn[same] = pool[rng.integers(len(pool), size=same.size)]
    return drawn


def _pairs(
    sequences: _Sequences,
    users: NDArray[np.int64],
    positives: NDArray[np.generic],
    negatives: NDArray[np.generic],
    splits: NDArray[np.object_],
) -> pd.DataFrame:
    """Two rows for each of `users`, at the position of the last item."""
    return pd.DataFrame(
        {
            "user_id": np.repeat(sequences.users[users], 2),
            "position": np.repeat(np.diff(sequences.starts)[users] - 1, 2),
            "item_id": np.stack([positives, negatives], axis=1).ravel(),
            "label": np.tile(np.array([1, 0]), len(users)),
            "split": np.repeat(splits, 2),
        }
    )


def _history_events(sequences: _Sequences, splits: NDArray[np.object_]) -> pd.DataFrame:
    """Every item of every user but the last."""
    lengths = np.diff(sequences.starts)
    position = np.arange(len(sequences.items)) - np.repeat(sequences.starts[:-1], lengths)
    earlier = position < np.repeat(lengths, lengths) - 1
    return pd.DataFrame(
        {
            "user_id": np.repeat(sequences.users, lengths)[earlier],
            "position": position[earlier],
            "item_id": sequences.items[earlier],
            "split": np.repeat(splits, lengths)[earlier],
        }
    )


def _schema(name: str, category: bool) -> FeatureSchema:
    columns = ("item_id", "category") if category else ("item_id",)
    return FeatureSchema(
        name=name,
        labels=("label",),
        features=(
            *(Feature(column, "candidate") for column in columns),
            *(Feature(f"history_{column}", "history", column=column) for column in columns),
        ),
        tables=tuple(Table(column) for column in columns),
        user="user_id",
        time="position",
        time_unit="order",
        max_history=50,
        target="history_item_id",
        side_target="history_category" if category else None,
    )
