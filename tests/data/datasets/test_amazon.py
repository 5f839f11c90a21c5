from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrec_gr.data.datasets import amazon
from torchrec_gr.data.log_source import LogSource

NUM_USERS = 40
ITEMS = [f"B{i:03d}" for i in range(12)]


def _sequences() -> dict[str, list[str]]:
    rng = np.random.default_rng(0)
    return {
        f"U{user:02d}": [ITEMS[i] for i in rng.permutation(12)[: 5 + user % 4]]
        for user in range(NUM_USERS)
    }


SEQUENCES = _sequences()


def _reviews() -> list[tuple[str, str, int]]:
    """In no order; the second and third of a user have one time, and the file's order decides."""
    reviews = [
        (user, item, 1000 + (1 if place == 2 else place))
        for user, items in SEQUENCES.items()
        for place, item in enumerate(items)
    ]
    return sorted(reviews, key=lambda review: -review[2])


@pytest.fixture
def official(tmp_path: Path) -> Path:
    with gzip.open(tmp_path / "reviews_Beauty_5.json.gz", "wt") as file:
        for user, item, time in _reviews():
            review = {"reviewerID": user, "asin": item, "overall": 5.0, "unixReviewTime": time}
            file.write(json.dumps(review) + "\n")
    with open(tmp_path / "meta_Beauty.json", "w", encoding="utf-8") as file:
        for i, item in enumerate(ITEMS):
            categories = [["Beauty", f"kind{i % 3}", "finer"], ["Beauty", "other"]]
            file.write(repr({"asin": item, "title": "it's", "categories": categories}) + "\n")
    return tmp_path


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "parquet"
    folder.mkdir()
    lists = [[ITEMS.index(item) for item in items] for items in SEQUENCES.values()]
    table = pa.table({"user_id": list(range(NUM_USERS)), "item_ids": lists})
    pq.write_table(table, folder / "amazon-beauty_sequences.parquet")
    items = {"item_id": list(range(12)), "attribute_ids": [[i % 3, 9] for i in range(12)]}
    pq.write_table(pa.table(items), folder / "amazon-beauty_items.parquet")
    return folder


def _tables(source: LogSource) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows, events = (pq.read_table(p[0]).to_pandas() for p in (source.rows, source.events))
    return rows, events


def test_official_reviews(official: Path, tmp_path: Path) -> None:
    rows, events = _tables(amazon.load_beauty(official, tmp_path / "work"))
    histories = events.sort_values("position").groupby("user_id")["item_id"].agg(list).to_dict()
    assert histories == {user: items[:-1] for user, items in SEQUENCES.items()}
    positives = rows[rows["label"] == 1].drop_duplicates("user_id").set_index("user_id")
    assert positives["item_id"].to_dict() == {u: items[-1] for u, items in SEQUENCES.items()}
    assert (positives["position"] == events.groupby("user_id").size()).all()


def test_shared_sequences_give_the_same_draws(official: Path, shared: Path, tmp_path: Path) -> None:
    by_name = _tables(amazon.load_beauty(official, tmp_path / "a"))
    by_number = _tables(amazon.load_beauty(shared, tmp_path / "b"))
    for names, numbers in zip(by_name, by_number, strict=True):
        assert names["item_id"].map(ITEMS.index).equals(numbers["item_id"])
        assert names["user_id"].str[1:].astype("int64").equals(numbers["user_id"])
        rest = [c for c in names.columns if c not in ("item_id", "user_id")]
        pd.testing.assert_frame_equal(names[rest], numbers[rest])


def test_ratings_are_reduced_to_their_core(tmp_path: Path) -> None:
    lone = [("U99", "B000", 5), ("U00", "Z", 6), ("U01", "Z", 6)]
    lines = [f"{user},{item},4.0,{time}\n" for user, item, time in [*_reviews(), *lone]]
    (tmp_path / "ratings_Beauty.csv").write_text("".join(lines))
    source = amazon.load_beauty(tmp_path, tmp_path / "work")
    assert source.dropped == {"review outside the 5-core": 3}
    rows, events = _tables(source)
    assert set(rows["user_id"]) == set(SEQUENCES)
    assert len(events) == sum(len(items) - 1 for items in SEQUENCES.values())


def test_every_user_has_a_positive_and_another_item(shared: Path, tmp_path: Path) -> None:
    rows, events = _tables(amazon.load_beauty(shared, tmp_path / "work"))
    pairs = rows.groupby(["split", "user_id"])
    assert (pairs.size() == 2).all()
    assert (pairs["label"].sum() == 1).all()
    assert (pairs["item_id"].nunique() == 2).all()
    assert (pairs["position"].nunique() == 1).all()
    of_user = rows[rows["split"] != amazon.POPULARITY_MATCHED].groupby("user_id")["split"].first()
    assert of_user.value_counts().to_dict() == {"train": 26, "validation": 2, "test": 12}
    assert (events["split"] == events["user_id"].map(of_user)).all()


def test_matched_negatives_are_last_items_of_test_users(shared: Path, tmp_path: Path) -> None:
    rows, _ = _tables(amazon.load_beauty(shared, tmp_path / "work"))
    test = rows[rows["split"] == "test"]
    matched = rows[rows["split"] == amazon.POPULARITY_MATCHED]
    positives = test.loc[test["label"] == 1, ["user_id", "item_id"]]
    again = matched.loc[matched["label"] == 1, ["user_id", "item_id"]]
    assert positives.to_numpy().tolist() == again.to_numpy().tolist()
    assert set(matched.loc[matched["label"] == 0, "item_id"]) <= set(positives["item_id"])


def test_seeds(shared: Path, tmp_path: Path) -> None:
    def rows(**seeds: int) -> pd.DataFrame:
        return _tables(amazon.load_beauty(shared, tmp_path / "work", **seeds))[0]

    first, negatives, users = rows(), rows(seed=1), rows(split_seed=1)
    assert first.equals(rows())
    everyone = first["split"] != amazon.POPULARITY_MATCHED
    assert negatives["split"].equals(first["split"])
    assert not negatives["item_id"].equals(first["item_id"])
    assert users["item_id"][everyone].equals(first["item_id"][everyone])
    assert not users["split"].equals(first["split"])


@pytest.mark.parametrize("layout", ["official", "shared"])
def test_category(layout: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    source = amazon.load_beauty(request.getfixturevalue(layout), tmp_path / "work", category=True)
    for table in _tables(source):
        if layout == "official":
            expected = table["item_id"].map(lambda item: f"kind{ITEMS.index(item) % 3}")
        else:
            expected = table["item_id"] % 3
        assert table["category"].tolist() == expected.tolist()
    assert source.schema.side_target == "history_category"
    assert source.schema.feature("category").table == "category"


def test_no_user_and_no_outcome_is_a_feature(shared: Path, tmp_path: Path) -> None:
    source = amazon.load_beauty(shared, tmp_path / "work")
    assert {f.column for f in source.schema.features} == {"item_id"}
    assert source.schema.item == source.schema.feature("item_id")
    assert source.schema.user == "user_id"
    assert not source.rows_are_events


def test_metadata_that_is_lacking_is_named(official: Path, tmp_path: Path) -> None:
    (official / "meta_Beauty.json").unlink()
    with pytest.raises(ValueError, match=r"meta_Beauty\.json\.gz .*or category left off"):
        amazon.load_beauty(official, tmp_path / "work", category=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [("{broken", "line 1: expected an object"), ('{"asin": "B"}', "line 1: expected a value of")],
)
def test_a_broken_review_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "reviews_Sports_and_Outdoors_5.json").write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        amazon.load_sports(tmp_path, tmp_path / "work")


def test_a_truncated_archive_is_named(official: Path, tmp_path: Path) -> None:
    path = official / "reviews_Beauty_5.json.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"reviews_Beauty_5\.json\.gz is damaged"):
        amazon.load_beauty(official, tmp_path / "work")


@pytest.mark.parametrize(
    ("load", "num_users", "num_reviews"),
    [(amazon.load_beauty, 22_363, 198_502), (amazon.load_sports, 35_598, 296_337)],
)
def test_the_real_sequences(
    shared_data: Path, tmp_path: Path, load: object, num_users: int, num_reviews: int
) -> None:
    rows, events = _tables(load(shared_data / "amazon-reviews", tmp_path))  # type: ignore[operator]
    assert len(events) == num_reviews - num_users
    sizes = rows["split"].value_counts()
    num_test = round(0.3 * num_users)
    assert sizes["test"] == sizes[amazon.POPULARITY_MATCHED] == 2 * num_test
    assert sizes["validation"] == 2 * round(0.05 * num_users)
    assert sizes["train"] == 2 * num_users - sizes["test"] - sizes["validation"]
    counts = events["item_id"].value_counts()
    popularity = (
        rows["item_id"].map(counts).fillna(0).groupby([rows["split"], rows["label"]]).mean()
    )
    assert popularity["test", 1] > 1.5 * popularity["test", 0]
    matched = popularity[amazon.POPULARITY_MATCHED]
    assert matched[1] == pytest.approx(matched[0], rel=0.1)
