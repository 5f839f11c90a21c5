"""Criteo click logs: 13 numbers and 26 ids of nameless columns; no user, no time, no history.

A missing number is 0 and a missing id is null (its table's out-of-vocabulary row). Rows are in time
order, so the last of them are the test set.

Source: Criteo AI Lab, the Kaggle display advertising challenge (2014) and the 1TB click logs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from torchrec_gr.data.datasets.canonical import find_file, missing, read_columns, write_parquet
from torchrec_gr.data.log_source import TEST, TRAIN, VALIDATION, ColumnSplit, LogSource
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table

NUMBERS = tuple(f"i{i}" for i in range(1, 14))
IDS = tuple(f"c{i}" for i in range(1, 27))
TEST_PART = 7
TEST_SHARE = VALIDATION_SHARE = 0.1
_SHARED = "criteo_80k.parquet"


def load(data_dir: Path, work_dir: Path, validation_part: int | None = 6) -> LogSource:
    """Reads the official tab-separated files, or a small sample as parquet in eight parts.

    Args:
        data_dir: holds `train.txt` (Kaggle) or `day_0`, `day_1`, ... (1TB), also gzipped, without a
            header: label, 13 numbers, 26 hexadecimal strings; or `criteo_80k.parquet` with a column
            `part`, 0 to 7.
        work_dir: where the canonical parquet is written.
        validation_part: of the sample, the part to validate on; part 7 is the test set and the
            others train. Of the official files, the last tenth of the rows is the test set and the
            tenth before it validates. None: no validation set, its rows train.

    Raises:
        ValueError: files that are missing or damaged, or a part that does not exist.
    """
    if validation_part is not None and not 0 <= validation_part < TEST_PART:
        raise ValueError(
            f"validation_part must be 0 to {TEST_PART - 1} (part {TEST_PART} is the test set) or "
            f"None, got {validation_part}"
        )
    official = _find_official(data_dir)
    if official:
        tables = _official_tables(official, validates=validation_part is not None)
    else:
        shared = find_file(data_dir, _SHARED)
        if shared is None:
            raise _missing(data_dir)
        tables = iter([_shared_table(shared, validation_part)])
    return LogSource(
        schema=_schema(),
        rows=(write_parquet(tables, work_dir / "criteo_rows.parquet"),),
        split=ColumnSplit("split"),
    )


def _find_official(data_dir: Path) -> list[Path]:
    """The official files in time order: one train file, or the days."""
    train = find_file(data_dir, "train.txt", "train.txt.gz")
    if train is not None:
        return [train]
    first = find_file(data_dir, "day_0", "day_0.gz")
    if first is None:
        return []
    days = {
        int(match[1]): path
        for path in first.parent.iterdir()
        if (match := re.fullmatch(r"day_(\d+)(\.gz)?", path.name))
    }
    return [days[day] for day in sorted(days)]


def _missing(data_dir: Path) -> ValueError:
    return missing(
        "criteo",
        data_dir,
        "Criteo AI Lab as the Kaggle display advertising challenge or the 1TB click logs at "
        "https://ailab.criteo.com",
        "train.txt or day_0.gz, day_1.gz, ... (tab-separated without a header: label, 13 numbers, "
        f"26 hexadecimal strings); or {_SHARED} (label, part, i1..i13, c1..c26)",
    )


def _shared_table(path: Path, validation_part: int | None) -> pa.Table:
    table = read_columns(path, ("label", "part", *NUMBERS, *IDS))
    part = table["part"]
    split = pc.if_else(pc.equal(part, TEST_PART), TEST, TRAIN)
    if validation_part is not None:
        split = pc.if_else(pc.equal(part, validation_part), VALIDATION, split)
    columns = [*_label_and_numbers(table)]
    for name in IDS:
        ids = table[name].cast(pa.int64())
        columns.append(pc.if_else(pc.equal(ids, 0), pa.scalar(None, pa.int64()), ids))
    return pa.table([*columns, split], names=["label", *NUMBERS, *IDS, "split"])


def _official_tables(paths: Sequence[Path], validates: bool) -> Iterator[pa.Table]:
    """The files block by block; a first pass counts the rows, which decide the split."""
    num_rows = sum(block.num_rows for block in _blocks(paths, ("label",)))
    test_from = num_rows - round(TEST_SHARE * num_rows)
    validation_from = test_from - round(VALIDATION_SHARE * num_rows) if validates else test_from
    first = 0
    for block in _blocks(paths, ("label", *NUMBERS, *IDS)):
        row = pa.array(range(first, first + block.num_rows))
        split = pc.if_else(pc.less(row, test_from), VALIDATION, TEST)
        split = pc.if_else(pc.less(row, validation_from), TRAIN, split)
        columns = [*_label_and_numbers(block), *(block[name] for name in IDS), split]
        yield pa.table(columns, names=["label", *NUMBERS, *IDS, "split"])
        first += block.num_rows


def _label_and_numbers(table: pa.Table) -> Iterator[pa.ChunkedArray]:
    yield table["label"].cast(pa.int64())
    for name in NUMBERS:
        yield pc.fill_null(table[name].cast(pa.float32()), 0.0)


def _blocks(paths: Sequence[Path], columns: Sequence[str]) -> Iterator[pa.Table]:
    names = ["label", *NUMBERS, *IDS]
    types = {name: pa.string() for name in names} | {name: pa.float32() for name in NUMBERS}
    types["label"] = pa.int64()
    convert = pa_csv.ConvertOptions(
        include_columns=list(columns),
        column_types=types,
        strings_can_be_null=True,
        null_values=[""],
    )
    for path in paths:
        try:
            with pa_csv.open_csv(
                str(path),
                read_options=pa_csv.ReadOptions(column_names=names),
                parse_options=pa_csv.ParseOptions(delimiter="\t"),
                convert_options=convert,
            ) as reader:
                for batch in reader:
                    yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{path}: expected lines of a label, 13 numbers and 26 strings between tabs "
                f"({error}). Fetch the file again"
            ) from error


def _schema() -> FeatureSchema:
    return FeatureSchema(
        name="criteo",
        labels=("label",),
        features=(
            *(Feature(name, "candidate", "dense", transform="log1p") for name in NUMBERS),
            *(Feature(name, "candidate") for name in IDS),
        ),
        tables=tuple(Table(name) for name in IDS),
    )
