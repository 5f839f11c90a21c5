"""One parquet or csv file of a log, read a block of rows at a time."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from torchrec_gr.schema.feature_schema import nearest_valid
from torchrec_gr.schema.vocabulary import id_type

Need = Literal["id", "number", "label", "time", "split"]
"""What a column is read as."""

BLOCK_ROWS = 65_536
"""The most rows that are in memory at once."""

_CSV_BLOCK_BYTES = 16 << 20
_CSV_NULLS = ["", "NULL", "null", "NaN", "nan"]
_EXPECTED: dict[Need, str] = {
    "id": "integers or strings, one a row",
    "number": "numbers, one a row",
    "label": "the numbers 0 and 1",
    "time": "integers in the schema's time unit, or timestamps",
    "split": "strings: train, validation, test or test_<name>",
}


@dataclasses.dataclass(frozen=True)
class LogFile:
    """A file of the log, and the parquet file with row groups of at most BLOCK_ROWS that is read.

    Args:
        path: the file that the user gave, which errors name.
        stored: `path` itself, or a copy of the needed columns in smaller row groups.
    """

    path: Path
    stored: Path

    def row_groups(self) -> list[int]:
        """The number of rows in each row group."""
        with _open_parquet(self.stored) as opened:
            return _row_groups(opened)

    def read(self, row_group: int, columns: list[str]) -> pa.Table:
        """Some columns of one row group.

        Raises:
            ValueError: the file is damaged.
        """
        with _open_parquet(self.stored) as opened:
            return self._read(opened, row_group, columns)

    def read_all(self, columns: list[str]) -> Iterator[pa.Table]:
        """Some columns of every row group, one at a time.

        Raises:
            ValueError: the file is damaged.
        """
        with _open_parquet(self.stored) as opened:
            for row_group in range(opened.num_row_groups):
                yield self._read(opened, row_group, columns)

    def _read(self, opened: pq.ParquetFile, row_group: int, columns: list[str]) -> pa.Table:
        try:
            return opened.read_row_group(row_group, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(_damaged(self.stored, error)) from error


def open_log_file(
    path: Path,
    needs: Mapping[str, tuple[Need, ...]],
    spool: Path,
    optional: Mapping[str, tuple[Need, ...]] | None = None,
) -> LogFile:
    """Checks a file's columns and sees to it that it can be read in small blocks.

    Args:
        path: a parquet file, or a csv file with a header (`.csv`, `.csv.gz`, `.tsv`).
        needs: the columns to read, and as what.
        spool: parquet file that is written where `path` is csv or has larger row groups.
        optional: further columns that are read where the file has them.

    Raises:
        ValueError: the file is missing or damaged, a column is missing or of the wrong type.
    """
    if not path.is_file():
        raise ValueError(f"log file {path} does not exist")
    if path.suffixes[-1:] == [".parquet"]:
        with _open_parquet(path) as opened:
            needs = _with_optional(opened.schema_arrow, needs, optional or {})
            _check_columns(path, opened.schema_arrow, needs)
            if max(_row_groups(opened), default=0) <= BLOCK_ROWS:
                return LogFile(path, stored=path)
            _spool(_parquet_batches(path, opened, needs), spool)
    else:
        _spool(_csv_batches(path, needs, optional or {}), spool)
    return LogFile(path, stored=spool)


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(_damaged(path, error)) from error


def _damaged(path: Path, error: Exception) -> str:
    return (
        f"{path} cannot be read: {error}. The file may be truncated or damaged: "
        "copy or write it again"
    )


def _row_groups(opened: pq.ParquetFile) -> list[int]:
    metadata = opened.metadata
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def _spool(batches: Iterator[pa.RecordBatch], spool: Path) -> None:
    first = next(batches)
    with pq.ParquetWriter(spool, first.schema) as writer:
        for batch in itertools.chain([first], batches):
            writer.write_batch(batch, row_group_size=BLOCK_ROWS)


def _parquet_batches(
    path: Path, opened: pq.ParquetFile, needs: Mapping[str, tuple[Need, ...]]
) -> Iterator[pa.RecordBatch]:
    try:
        yield from opened.iter_batches(batch_size=BLOCK_ROWS, columns=list(needs))
    except (OSError, pa.ArrowException) as error:
        raise ValueError(_damaged(path, error)) from error


def _csv_batches(
    path: Path,
    needs: Mapping[str, tuple[Need, ...]],
    optional: Mapping[str, tuple[Need, ...]],
) -> Iterator[pa.RecordBatch]:
    reading = pacsv.ReadOptions(block_size=_CSV_BLOCK_BYTES)
    parsing = pacsv.ParseOptions(delimiter="\t" if ".tsv" in path.suffixes else ",")
    nulls = {"null_values": _CSV_NULLS, "strings_can_be_null": True}
    try:
        with pacsv.open_csv(path, reading, parsing, pacsv.ConvertOptions(**nulls)) as first:
            found = first.schema
    except pa.ArrowException as error:
        raise ValueError(_damaged(path, error)) from error
    needs = _with_optional(found, needs, optional)
    _check_columns(path, found, needs)
    converting = pacsv.ConvertOptions(
        include_columns=list(needs), column_types=_csv_types(found, needs), **nulls
    )
    try:
        with pacsv.open_csv(path, reading, parsing, converting) as reader:
            yield pa.RecordBatch.from_pylist([], schema=reader.schema)  # a file of a header alone
            yield from reader
    except pa.ArrowException as error:
        raise ValueError(
            f"{path}: {error}. The type of a column is read off the first "
            f"{_CSV_BLOCK_BYTES >> 20} MB; a later value does not fit it: mend the value, or write "
            "the log as parquet with the type it should have"
        ) from error


def _csv_types(found: pa.Schema, needs: Mapping[str, tuple[Need, ...]]) -> dict[str, pa.DataType]:
    """Numbers are floats even if the first are whole; ids that begin with nulls are strings."""
    types = {field.name: field.type for field in found if field.name in needs}
    for name, wanted in needs.items():
        if {"number", "label"} & set(wanted) and "id" not in wanted:
            types[name] = pa.float64()
        elif pa.types.is_null(types[name]):
            types[name] = pa.int64() if "time" in wanted else pa.string()
    return types


def _with_optional(
    found: pa.Schema,
    needs: Mapping[str, tuple[Need, ...]],
    optional: Mapping[str, tuple[Need, ...]],
) -> dict[str, tuple[Need, ...]]:
    also = {name: wanted for name, wanted in optional.items() if name in found.names}
    return {
        name: (*needs.get(name, ()), *also.get(name, ())) for name in dict.fromkeys([*needs, *also])
    }


def _check_columns(path: Path, found: pa.Schema, needs: Mapping[str, tuple[Need, ...]]) -> None:
    for name, wanted in needs.items():
        if name not in found.names:
            raise ValueError(f"{path}: {nearest_valid('column', name, found.names)}")
        for need in wanted:
            if not _fits(found.field(name).type, need):
                raise ValueError(
                    f"{path}: column {name!r} has type {found.field(name).type}, expected "
                    f"{_EXPECTED[need]}"
                )


def _fits(found: pa.DataType, need: Need) -> bool:
    if pa.types.is_null(found):
        return True
    if need == "id":
        return id_type(found) is not None
    if need == "split":
        return id_type(found) == pa.large_string()
    if need == "time":
        return pa.types.is_timestamp(found) or pa.types.is_integer(found)
    is_number = pa.types.is_integer(found) or pa.types.is_floating(found)
    return is_number or pa.types.is_boolean(found)
