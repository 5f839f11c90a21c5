"""A user's own files and schema."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from torchrec_gr.data.datasets import custom
from torchrec_gr.data.log_source import ColumnSplit, TemporalSplit
from torchrec_gr.data.prepared_log import prepare
from torchrec_gr.schema import Feature, FeatureSchema, Table

SCHEMA = FeatureSchema(
    name="mine",
    labels=("click",),
    features=(Feature("item", "candidate"), Feature("h_item", "history", column="item")),
    tables=(Table("item"),),
    user="user",
    time="time",
    time_unit="s",
    utc_offset_hours=8,
)
DAY = 86_400
FRAME = pd.DataFrame({"user": 1, "item": [1, 2, 3], "click": [0, 1, 0], "time": [0, DAY, 2 * DAY]})


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    FRAME[:2].to_csv(tmp_path / "data" / "b.csv", index=False)
    FRAME[2:].to_csv(tmp_path / "data" / "a.csv", index=False)
    (tmp_path / "schema.yaml").write_text(SCHEMA.to_yaml())
    return tmp_path / "data"


def load(data_dir: Path, **options: Any) -> Any:
    return custom.load(data_dir, data_dir.parent / "work", **({"schema": SCHEMA} | options))


def test_files_and_a_yaml_schema_become_a_log_that_can_be_prepared(data_dir: Path) -> None:
    schema = data_dir.parent / "schema.yaml"
    source = load(data_dir, schema=str(schema), validation_from=DAY, test_from=2 * DAY)
    assert [path.name for path in source.rows] == ["a.csv", "b.csv"]
    log = prepare(source, data_dir.parent / "work")
    assert {split: log.num_rows(split) for split in log.splits} == {
        "train": 1,
        "validation": 1,
        "test": 1,
    }


def test_globs_choose_the_files_and_parquet_comes_first(data_dir: Path) -> None:
    assert [p.name for p in load(data_dir, rows="b*", test_from=5).rows] == ["b.csv"]
    FRAME.to_parquet(data_dir / "c.parquet")
    assert [p.name for p in load(data_dir, test_from=5).rows] == ["c.parquet"]


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [
        (7, 7),
        ("1970-01-02", DAY - 8 * 3600),
        (datetime.date(1970, 1, 2), DAY - 8 * 3600),
        ("1970-01-02T00:00:00+00:00", DAY),
    ],
)
def test_moments_are_in_the_unit_of_the_log_or_iso(
    data_dir: Path, moment: Any, seconds: int
) -> None:
    split = load(data_dir, test_from=moment).split
    assert split == TemporalSplit(validation_from=seconds, test_from=seconds)


def test_a_column_may_say_the_split(data_dir: Path) -> None:
    assert load(data_dir, split_column="part").split == ColumnSplit("part")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either by time .* or by split_column"),
        ({"validation_from": 3}, "either by time"),
        ({"test_from": 3, "split_column": "part"}, "either by time"),
        ({"test_from": "yesterday"}, "'yesterday' is no time: expected an integer in s"),
        ({"test_from": 3, "rows": "*.txt"}, r"matches \*\.txt: .* holds a\.csv, b\.csv"),
        ({"test_from": 3, "schema": "no.yaml"}, r"schema no\.yaml does not exist"),
    ],
)
def test_a_mistake_is_an_error(data_dir: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(data_dir, **options)


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        load(tmp_path / "nowhere", test_from=1)
