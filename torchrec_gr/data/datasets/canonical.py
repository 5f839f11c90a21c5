"""How the built-in data sets read a publisher's files and write the canonical parquet."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

ROW_GROUP_ROWS = 65_536


class MissingDataError(ValueError):
    """The files of a data set are not where they were looked for."""


def find_file(data_dir: Path, *names: str) -> Path | None:
    """The first of `names` in `data_dir`, or in a folder at most two levels below it.

    Archives unpack into folders of their own, so a user may name the folder above.
    """
    for name in names:
        for pattern in (name, f"*/{name}", f"*/*/{name}"):
            for path in sorted(Path(data_dir).glob(pattern)):
                return path
    return None


def require_file(data_dir: Path, *names: str) -> Path:
    """`find_file` for a file that belongs to others that were found.

    Raises:
        MissingDataError: none of the names is there.
    """
    path = find_file(data_dir, *names)
    if path is None:
        raise MissingDataError(
            f"{' or '.join(names)} is not in {data_dir}: it is published together with the files "
            "that are there"
        )
    return path


def missing(name: str, data_dir: Path, publisher: str, holds: str) -> MissingDataError:
    """The error for a data set of which no known file was found.

    Args:
        name: of the data set.
        data_dir: where its files were looked for.
        publisher: who publishes it, and where.
        holds: the files that were looked for, and what they hold.
    """
    state = "holds none of its files" if Path(data_dir).is_dir() else "is not a folder"
    return MissingDataError(
        f"data set {name!r}: {data_dir} {state}. It is published by {publisher}. Expected: {holds}"
    )


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of a parquet file, or of a csv file with a header.

    Raises:
        ValueError: the file cannot be read or has no such column; names both.
    """
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path, columns=list(columns))
        convert = pa_csv.ConvertOptions(include_columns=list(columns), strings_can_be_null=True)
        return pa_csv.read_csv(path, convert_options=convert)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} is damaged or not the published file: expected a {path.suffix[1:]} file with "
            f"columns {', '.join(columns)} ({error}). Fetch it again"
        ) from error


def write_parquet(tables: pa.Table | Iterable[pa.Table], path: Path) -> Path:
    """Writes tables of one schema, one after the other, so that `path` is whole or absent.

    Args:
        tables: a table, or a stream of them.
        path: of the file; its folder is made.

    Returns:
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    stream = iter([tables] if isinstance(tables, pa.Table) else tables)
    first = next(stream)
    try:
        with pq.ParquetWriter(partial, first.schema) as writer:
            writer.write_table(first, row_group_size=ROW_GROUP_ROWS)
            for table in stream:
                writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        if not (path.exists() and filecmp.cmp(partial, path, shallow=False)):
            os.replace(partial, path)  # a file of equal contents keeps its time: nothing to redo
    finally:
        partial.unlink(missing_ok=True)
    return path
