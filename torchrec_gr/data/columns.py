"""The columns of one block of a log file, typed and checked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from torchrec_gr.data.log_file import LogFile
from torchrec_gr.schema.feature_schema import TimeUnit, Transform
from torchrec_gr.schema.vocabulary import raw_ids
from torchrec_gr.sequences.request_batch import NO_TIME


class Columns:
    """N rows of one file. A value that cannot be used is an error with its file, column and row.

    Args:
        file: where the rows come from.
        first_row: number, counted from 0 within the file, of the first of them.
        contents: the columns, N rows.
    """

    def __init__(self, file: LogFile, first_row: int, contents: pa.Table) -> None:
        self.file = file
        self.first_row = first_row
        self.contents = contents
        self._ids: dict[str, pa.Array] = {}

    def __len__(self) -> int:
        return self.contents.num_rows

    def __contains__(self, column: str) -> bool:
        """Whether the file has a column."""
        return column in self.contents.column_names

    @contextlib.contextmanager
    def naming_the_file(self) -> Iterator[None]:
        """Puts the file's name before an error about its columns."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.file.path}: {error}") from error

    def ids(self, column: str) -> pa.Array:
        """[N] int64 or large_string, with nulls.

        Raises:
            ValueError: a negative id, or a fraction.
        """
        if column not in self._ids:
            self._ids[column] = self._checked_ids(column)
        return self._ids[column]

    def users(self, column: str) -> pa.Array:
        """[N] int64 or large_string, without nulls.

        Raises:
            ValueError: a null or negative user.
        """
        users = self.ids(column)
        self._refuse(users.is_null(), users, column, "every row needs a user")
        return users

    def times(self, column: str, unit: TimeUnit) -> NDArray[np.int64]:
        """[N] int64 in the schema's unit.

        Raises:
            ValueError: a null; or timestamps where the log knows only an order.
        """
        times = self._column(column)
        self._refuse(times.is_null(), times, column, "every row needs a time")
        return self.times_or_null(column, unit)

    def times_or_null(self, column: str, unit: TimeUnit) -> NDArray[np.int64]:
        """[N] int64 in the schema's unit; NO_TIME where null.

        Raises:
            ValueError: timestamps where the log knows only an order.
        """
        times = self._column(column)
        if pa.types.is_timestamp(times.type):
            if unit == "order":
                raise ValueError(
                    f"{self.file.path}: column {column!r} has type {times.type}, but the schema's "
                    "time_unit is 'order': name the unit, us, ms or s"
                )
            times = times.cast(pa.timestamp(unit, times.type.tz), safe=False)
        return times.cast(pa.int64()).fill_null(NO_TIME).to_numpy()

    def numbers(self, column: str, transform: Transform) -> NDArray[np.float32]:
        """[N] float32, transformed; 0 where null, NaN or infinite."""
        numbers = self._floats(column)
        numbers = np.where(np.isfinite(numbers), numbers, 0.0)
        if transform == "log1p":
            numbers = np.sign(numbers) * np.log1p(np.abs(numbers))
        return numbers.astype(np.float32)

    def unusable_numbers(self, column: str) -> tuple[int, int]:
        """How many numbers are null, and how many are NaN or infinite."""
        num_null = self.contents[column].null_count
        return num_null, int((~np.isfinite(self._floats(column))).sum()) - num_null

    def labels(self, column: str) -> NDArray[np.float32]:
        """[N] float32, each 0 or 1.

        Raises:
            ValueError: anything else, null included.
        """
        labels = self._floats(column)
        wrong = (labels != 0) & (labels != 1)
        self._refuse(wrong, self._column(column), column, "a label is 0 or 1")
        return labels.astype(np.float32)

    def outcomes(self, column: str) -> NDArray[np.int8]:
        """[N] int8: 0, 1, or -1 where null.

        Raises:
            ValueError: anything else.
        """
        outcomes = self._floats(column)
        known = ~np.isnan(outcomes)
        wrong = known & (outcomes != 0) & (outcomes != 1)
        self._refuse(wrong, self._column(column), column, "what a rate is of is 0, 1 or null")
        return np.where(known, outcomes, -1).astype(np.int8)

    def names(self, column: str) -> pa.DictionaryArray:
        """[N] strings, without nulls, each different one once in the dictionary."""
        names = raw_ids(self._column(column), column)
        self._refuse(names.is_null(), names, column, "every row needs a split")
        return names.dictionary_encode()

    def _checked_ids(self, column: str) -> pa.Array:
        with self.naming_the_file():
            ids = raw_ids(self._column(column), column)
        if ids.type == pa.int64():
            expected = "an id is 0 or more; write null where there is none"
            self._refuse(pc.less(ids, 0).fill_null(False), ids, column, expected)
        return ids

    def _column(self, column: str) -> pa.Array:
        return self.contents[column].combine_chunks()

    def _floats(self, column: str) -> NDArray[np.float64]:
        floats = self._column(column).cast(pa.float64(), safe=False)
        return floats.fill_null(float("nan")).to_numpy(zero_copy_only=False)

    def _refuse(
        self, wrong: pa.Array | NDArray[np.bool_], values: pa.Array, column: str, expected: str
    ) -> None:
        mask: NDArray[Any] = np.asarray(wrong)
        if mask.any():
            row = int(mask.argmax())
            raise ValueError(
                f"{self.file.path}: column {column!r}, row {self.first_row + row} (counted from 0) "
                f"holds {values[row].as_py()!r}: {expected}"
            )
