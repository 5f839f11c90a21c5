from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from torchrec_gr.data.datasets import movielens
from torchrec_gr.data.log_source import ColumnSplit, LogSource, TemporalSplit

MOVIES = {10: ("Star: Wars (1977)", "Action|Sci-Fi"), 11: ("Café, un (1990)", "(no genres listed)")}
USERS = {1: ("F", 25, 3), 2: ("M", 1, 10)}
RATINGS = [  # in no order
    *((1, 10 + i % 2, 5 - i % 3, 1000 - 7 * i) for i in range(20)),
    *((2, 10 + i % 2, 1 + i % 5, 900 - 7 * i) for i in range(10)),
]


@pytest.fixture
def dat(tmp_path: Path) -> Path:
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    _write(folder / "ratings.dat", [f"{u}::{m}::{r}::{t}" for u, m, r, t in RATINGS])
    _write(folder / "movies.dat", [f"{m}::{t}::{g}" for m, (t, g) in MOVIES.items()])
    _write(folder / "users.dat", [f"{u}::{g}::{a}::{o}::1" for u, (g, a, o) in USERS.items()])
    return folder


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    folder = tmp_path / "ml-20m"
    folder.mkdir()
    ratings = [f"{u},{m},{float(r)},{t}" for u, m, r, t in RATINGS]
    _write(folder / "ratings.csv", ["userId,movieId,rating,timestamp", *ratings])
    movies = [f'{m},"{t}",{g}' for m, (t, g) in MOVIES.items()]
    _write(folder / "movies.csv", ["movieId,title,genres", *movies], "utf-8")
    return folder


def _write(path: Path, lines: list[str], encoding: str = "latin-1") -> None:
    path.write_text("\n".join(lines) + "\n", encoding=encoding)


@pytest.fixture
def ordered(tmp_path: Path) -> Path:
    folder = tmp_path / "parquet"
    folder.mkdir()
    ratings = pd.DataFrame(RATINGS, columns=["user_id", "movie_id", "rating", "time"])
    place = ratings.groupby("user_id")["time"].rank() - 1
    ratings["order_pos"] = place.astype("Int16").where(ratings.index != 0)  # one has no place
    ratings.drop(columns="time").to_parquet(folder / "ratings.parquet")
    movies = [(m, t, g) for m, (t, g) in MOVIES.items()]
    columns = ["movie_id", "title", "genres"]
    pd.DataFrame(movies, columns=columns).to_parquet(folder / "movies.parquet")
    users = pd.DataFrame(
        [(u, *rest) for u, rest in USERS.items()],
        columns=["user_id", "gender", "age", "occupation"],
    )
    users.to_parquet(folder / "users.parquet")
    return folder


def _rows(source: LogSource) -> pd.DataFrame:
    return pq.read_table(source.rows[0]).to_pandas()


def test_dat_files(dat: Path, tmp_path: Path) -> None:
    source = movielens.load(dat, tmp_path / "work")
    rows = _rows(source)
    expected = sorted((t, u, m, int(r >= 4)) for u, m, r, t in RATINGS)
    columns = ["time", "user_id", "movie_id", "liked"]
    assert [tuple(r) for r in rows[columns].itertuples(index=False)] == expected
    assert rows["genre"].isna().equals(rows["movie_id"] == 11)
    assert set(rows["genre"].dropna()) == {"Action"}
    of_user = rows.groupby("user_id")[["gender", "age", "occupation"]].first()
    assert (
        dict(zip(of_user.index, of_user.itertuples(index=False, name=None), strict=True)) == USERS
    )
    assert source.schema.time_unit == "s"


def test_csv_files_give_the_same_rows_without_users(dat: Path, csv: Path, tmp_path: Path) -> None:
    source = movielens.load(csv, tmp_path / "a")
    rows = _rows(movielens.load(dat, tmp_path / "b"))
    pd.testing.assert_frame_equal(_rows(source), rows.drop(columns=["gender", "age", "occupation"]))
    assert [f.name for f in source.schema.of("contextual")] == ["user_id"]


def test_times_split_at_their_quantiles(dat: Path, tmp_path: Path) -> None:
    source = movielens.load(dat, tmp_path / "work")
    time = _rows(source)["time"]
    assert isinstance(source.split, TemporalSplit)
    assert (time < source.split.validation_from).sum() == 24
    assert (time >= source.split.test_from).sum() == 3


def test_orders_split_each_user(ordered: Path, tmp_path: Path) -> None:
    source = movielens.load(ordered, tmp_path / "work")
    rows = _rows(source)
    assert source.split == ColumnSplit("split")
    assert source.dropped == {"rating without a place in the user's order": 1}
    newest_first = rows.sort_values("time", ascending=False).groupby("user_id")["split"].agg(list)
    assert newest_first[1] == ["test", "validation"] + ["train"] * 17
    assert newest_first[2] == ["test", "validation"] + ["train"] * 8


@pytest.mark.parametrize("layout", ["dat", "ordered"])
def test_the_last_rating_of_each_user_can_be_the_test_set(
    layout: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(layout)
    source = movielens.load(folder, tmp_path / "work", split="last", max_history=7)
    rows = _rows(source)
    assert source.split == ColumnSplit("split")
    assert source.schema.max_history == 7
    newest_first = rows.sort_values("time", ascending=False).groupby("user_id")["split"].agg(list)
    for user, splits in newest_first.items():
        assert splits == ["test", "validation"] + ["train"] * (len(splits) - 2), user
    with pytest.raises(ValueError, match="share"):
        movielens.load(folder, tmp_path / "other", split="lst")  # type: ignore[arg-type]


def test_the_rating_is_never_a_feature_of_its_own_row(ordered: Path, tmp_path: Path) -> None:
    source = movielens.load(ordered, tmp_path / "work")
    columns = {f.column for f in source.schema.features if f.role != "history"}
    assert not columns & {"half_stars", "liked"}
    assert {f.column for f in source.schema.features} <= set(_rows(source).columns)


def test_a_broken_line_is_named(dat: Path, tmp_path: Path) -> None:
    with open(dat / "movies.dat", "a", encoding="latin-1") as file:
        file.write("12::No genres\n")
    with pytest.raises(ValueError, match=r"movies\.dat, line 3: expected movie_id::title::genres"):
        movielens.load(dat, tmp_path / "work")
    (dat / "ratings.dat").write_text("1::2::five::4\n")
    with pytest.raises(ValueError, match=r"ratings\.dat: expected lines of user_id::movie_id"):
        movielens.load(dat, tmp_path / "work")


def test_the_real_log(shared_data: Path, tmp_path: Path) -> None:
    source = movielens.load(shared_data / "ml-1m", tmp_path)
    rows = pq.read_table(source.rows[0], columns=["split", "liked"]).to_pandas()
    assert source.dropped == {"rating without a place in the user's order": 598}
    assert rows["split"].value_counts().to_dict() == {
        "train": 804_987,
        "validation": 97_312,
        "test": 97_312,
    }
    assert rows["liked"].mean() == pytest.approx((348_971 + 226_310) / 1_000_209, abs=0.001)
