from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrec_gr.data.datasets.canonical import (
    ROW_GROUP_ROWS,
    MissingDataError,
    find_file,
    read_columns,
    require_file,
    write_parquet,
)


def test_a_file_is_found_below_the_folder_and_the_first_name_wins(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "first.csv").touch()
    (tmp_path / "second.csv").touch()
    assert find_file(tmp_path, "first.csv", "second.csv") == tmp_path / "a" / "b" / "first.csv"
    assert find_file(tmp_path, "third.csv") is None


def test_a_file_that_must_be_there_is_named_when_it_is_not(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"users\.csv or users\.parquet is not in"):
        require_file(tmp_path, "users.csv", "users.parquet")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_columns_come_in_the_order_asked_for(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table.{suffix}"
    if suffix == "csv":
        path.write_text("a,b,c\n1,x,\n2,,3\n")
    else:
        pq.write_table(pa.table({"a": [1, 2], "b": ["x", None], "c": [None, 3]}), path)
    table = read_columns(path, ("c", "b"))
    assert table.column_names == ["c", "b"]
    assert table["c"].to_pylist() == [None, 3]
    assert table["b"].to_pylist() == ["x", None]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_without_a_column_is_named_with_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table.{suffix}"
    if suffix == "csv":
        path.write_text("a\n1\n")
    else:
        pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(ValueError, match=rf"table\.{suffix} .*columns a, lost.*lost"):
        read_columns(path, ("a", "lost"))


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"table\.parquet is damaged.*Fetch it again"):
        read_columns(path, ("a",))


def test_large_tables_are_cut_into_row_groups(tmp_path: Path) -> None:
    table = pa.table({"a": list(range(ROW_GROUP_ROWS + 1))})
    path = write_parquet(table, tmp_path / "new" / "out.parquet")
    assert pq.ParquetFile(path).num_row_groups == 2
    assert pq.read_table(path).equals(table)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    def tables() -> Iterator[pa.Table]:
        yield pa.table({"a": [2]})
        raise OSError("no space left")

    path = write_parquet(pa.table({"a": [1]}), tmp_path / "out.parquet")
    with pytest.raises(OSError, match="no space left"):
        write_parquet(tables(), path)
    assert pq.read_table(path)["a"].to_pylist() == [1]
    assert list(tmp_path.iterdir()) == [path]
