"""Files of a log, parquet and csv, in small blocks."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrec_gr.data import log_file
from torchrec_gr.data.log_file import Need, open_log_file

NEEDS: dict[str, tuple[Need, ...]] = {
    "item": ("id",),
    "price": ("number",),
    "click": ("label", "id"),
    "time": ("time",),
}
TABLE = pa.table(
    {
        "item": ["a", None, "c", "d", "e"],
        "ignored": [[1]] * 5,
        "price": [1.0, 2.0, 3.0, None, 5.5],
        "click": [0, 1, 0, 1, 1],
        "time": [1, 2, 3, 4, 5],
    }
)
CSV = "item,price,ignored,click,time\na,1,x,0,1\n,2,x,1,2\nc,3,x,0,3\nd,,x,1,4\ne,5.5,x,1,5\n"


def contents(path: Path, spool: Path) -> pa.Table:
    file = open_log_file(path, NEEDS, spool)
    return pa.concat_tables(file.read_all(list(NEEDS))).select(list(NEEDS))


def test_parquet_of_small_row_groups_is_read_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(TABLE, path, row_group_size=2)
    file = open_log_file(path, NEEDS, tmp_path / "spool.parquet")
    assert file.stored == path
    assert file.row_groups() == [2, 2, 1]
    assert file.read(1, ["item"])["item"].to_pylist() == ["c", "d"]
    assert not (tmp_path / "spool.parquet").exists()


def test_parquet_of_large_row_groups_is_written_again_in_small_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "BLOCK_ROWS", 2)
    path, spool = tmp_path / "log.parquet", tmp_path / "spool.parquet"
    pq.write_table(TABLE, path)
    file = open_log_file(path, NEEDS, spool)
    assert (file.path, file.stored) == (path, spool)
    assert file.row_groups() == [2, 2, 1]
    assert set(pq.read_schema(spool).names) == set(NEEDS), "other columns are not copied"
    assert contents(path, spool).equals(TABLE.select(list(NEEDS)))


@pytest.mark.parametrize("form", ["csv", "csv.gz", "tsv"])
def test_csv_is_read_as_parquet_is(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"log.{form}"
    text = CSV.replace(",", "\t") if form == "tsv" else CSV
    path.write_bytes(gzip.compress(text.encode()) if form.endswith("gz") else text.encode())
    found = contents(path, tmp_path / "spool.parquet")
    assert found.to_pydict() == TABLE.select(list(NEEDS)).to_pydict()


def test_a_number_that_is_whole_at_first_may_have_a_fraction_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "_CSV_BLOCK_BYTES", 40)
    (tmp_path / "log.csv").write_text(CSV)
    found = contents(tmp_path / "log.csv", tmp_path / "spool.parquet")
    assert found["price"].to_pylist() == [1, 2, 3, None, 5.5]


def test_a_csv_file_of_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(CSV.splitlines()[0] + "\n")
    assert contents(tmp_path / "log.csv", tmp_path / "spool.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CSV.replace("5.5", "dear"), r"column 'price' has type string, expected numbers"),
        (CSV.replace("time", "tim"), r"unknown column 'time': did you mean 'tim'"),
        (CSV + "f,1\n", r"cannot be read: .*Expected 5 columns, got 2"),
        ("", r"cannot be read: Empty CSV file"),
    ],
)
def test_a_csv_file_that_cannot_be_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(ValueError, match=r"log\.csv:? " + message):
        open_log_file(tmp_path / "log.csv", NEEDS, tmp_path / "spool.parquet")


def test_a_csv_value_that_does_not_fit_what_came_before_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "_CSV_BLOCK_BYTES", 40)
    (tmp_path / "log.csv").write_text(CSV.replace("5.5", "dear"))
    with pytest.raises(ValueError, match=r"log\.csv: .*'dear'.* read off the first"):
        open_log_file(tmp_path / "log.csv", NEEDS, tmp_path / "spool.parquet")


def test_a_damaged_page_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(TABLE, path, row_group_size=2)
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 40 + whole[44:])
    file = open_log_file(path, NEEDS, tmp_path / "spool.parquet")
    with pytest.raises(ValueError, match=r"log\.parquet cannot be read"):
        file.read(0, ["item"])
