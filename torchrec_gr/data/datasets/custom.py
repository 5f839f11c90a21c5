"""Your own log: parquet or csv files, and a schema that says what their columns mean."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from torchrec_gr.data.log_source import ColumnSplit, LogSource, TemporalSplit
from torchrec_gr.schema.feature_schema import TICKS_PER_SECOND, FeatureSchema

Moment = int | str | datetime.date
"""A time in the log's unit, or an ISO date or time: without a zone, by the schema's clock."""

_FORMATS = ("*.parquet", "*.csv")


def load(
    data_dir: Path,
    work_dir: Path,
    *,
    schema: str | Path | FeatureSchema,
    rows: str | Sequence[str] = _FORMATS,
    validation_from: Moment | None = None,
    test_from: Moment | None = None,
    split_column: str | None = None,
) -> LogSource:
    """Takes the files where they are.

    Args:
        data_dir: holds the log.
        work_dir: nothing is written there.
        schema: a FeatureSchema, or the YAML file of one.
        rows: glob or globs within `data_dir`; the first that finds files says which they are, in
            the order of their names.
        validation_from, test_from: where the windows begin: an integer in the log's time unit, or
            an ISO date or time, such as 2022-05-04. Without `validation_from` there is no
            validation split.
        split_column: instead of times, a column of "train", "validation", "test", "test_<name>".

    Raises:
        ValueError: no file or no schema is found, or it is not clear how the log is split.
    """
    if not isinstance(schema, FeatureSchema):
        schema = _read_schema(Path(schema))
    files = _find(data_dir, [rows] if isinstance(rows, str) else list(rows))
    if split_column is not None and (validation_from, test_from) == (None, None):
        return LogSource(schema, files, ColumnSplit(split_column))
    if split_column is not None or test_from is None:
        raise ValueError(
            "a log is split either by time (test_from, and validation_from to choose settings by) "
            f"or by split_column; got test_from={test_from!r}, validation_from={validation_from!r},"
            f" split_column={split_column!r}"
        )
    begin_test = _in_log_unit(test_from, schema)
    begin_validation = begin_test
    if validation_from is not None:
        begin_validation = _in_log_unit(validation_from, schema)
    return LogSource(schema, files, TemporalSplit(begin_validation, begin_test))


def _read_schema(path: Path) -> FeatureSchema:
    if not path.is_file():
        raise ValueError(f"schema {path} does not exist: give the YAML file that describes the log")
    return FeatureSchema.from_yaml(path)


def _find(data_dir: Path, globs: list[str]) -> tuple[Path, ...]:
    for pattern in globs:
        if files := sorted(path for path in Path(data_dir).glob(pattern) if path.is_file()):
            return tuple(files)
    state = "is not a folder"
    if Path(data_dir).is_dir():
        names = sorted(path.name for path in Path(data_dir).iterdir())
        state = f"holds {', '.join(names[:10]) or 'nothing'}{', ...' if len(names) > 10 else ''}"
    raise ValueError(f"no file of rows matches {' or '.join(globs)}: {data_dir} {state}")


def _in_log_unit(moment: Moment, schema: FeatureSchema) -> int:
    if isinstance(moment, int):
        return moment
    if schema.time_unit == "order":
        raise ValueError(
            f"{moment!r} is a date, but the log's time_unit is 'order': give a place in the order"
        )
    try:
        when = datetime.datetime.fromisoformat(str(moment))
    except ValueError:
        raise ValueError(
            f"{moment!r} is no time: expected an integer in {schema.time_unit}, or an ISO date or "
            "time such as 2022-05-04 or 2022-05-04T12:00:00+00:00"
        ) from None
    if when.tzinfo is None:
        clock = datetime.timezone(datetime.timedelta(hours=schema.utc_offset_hours))
        when = when.replace(tzinfo=clock)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    microseconds = (when - epoch) // datetime.timedelta(microseconds=1)
    return microseconds * TICKS_PER_SECOND[schema.time_unit] // 1_000_000
