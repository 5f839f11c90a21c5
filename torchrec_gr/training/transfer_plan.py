"""What to transfer into a model, and from where."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from torchrec_gr.training.raw_ids import RawIds

Unknown = Literal["keep", "mean", "hash"]
Projection = Literal["none", "principal"]


class SameRows(enum.Enum):
    """The type of SAME_ROWS."""

    SAME_ROWS = enum.auto()


SAME_ROWS: Final = SameRows.SAME_ROWS
"""Instead of raw ids: row i of the target is row i of the source."""


@dataclasses.dataclass(frozen=True, eq=False)
class TablePlan:
    """Where a table's rows come from.

    Args:
        source: the source's table.
        raw_ids: what the target's rows stand for: its Vocabulary, or [rows] integers or strings,
            None or null where a row stands for no id; SAME_ROWS: row i is the source's row i, and
            the target may have more; None: for dynamic tables, whose keys are raw ids.
        unknown: rows of ids that the source does not know: "keep" them as they are; the "mean" of
            the source's rows; "hash": the row of a source's id that a hash of the id picks.
        projection: where widths differ. "none": an error. "principal": a narrower target takes the
            coordinates along the directions of the largest second moments (uncentred) of the
            source's rows, which keep as much of their dot products as so few can; a wider one has
            zeros behind.
        optimizer_state: of the rows that are found comes along.
        counts: [rows] of the target's rows in its training data, for the report; default: the
            Vocabulary's.
    """

    source: str
    raw_ids: RawIds | SameRows | None = None
    unknown: Unknown = "keep"
    projection: Projection = "none"
    optimizer_state: bool = False
    counts: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        for field, words in (("unknown", Unknown), ("projection", Projection)):
            if getattr(self, field) not in get_args(words):
                raise ValueError(
                    f"TablePlan: unknown {field} {getattr(self, field)!r}: expected one of "
                    f"{', '.join(get_args(words))}"
                )


@dataclasses.dataclass(frozen=True, eq=False)
class TransferPlan:
    """What to transfer into a model.

    Args:
        tables: by the target's table name.
        dense: names of the target's parameters and buffers that are no tables, each with the
            source's name.
        dense_optimizer_state: AdamW's state of these comes along.
    """

    tables: Mapping[str, TablePlan] = dataclasses.field(default_factory=dict)
    dense: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dense_optimizer_state: bool = False
