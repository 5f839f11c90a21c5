"""What weights to transfer look like: tables by raw id, read piece by piece, and dense tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from torchrec_gr.embeddings.multi_hash_config import HashSlots

LONGEST_PIECE = 65_536
"""Rows that a piece has at most: no more of a table is ever in memory beside the target."""


class RowPiece(NamedTuple):
    """Rows of a table that follow each other.

    Args:
        first_row: of the piece.
        weight: [n, D] float32.
        optimizer: float32, [n] (row-wise Adagrad) or [n, D] (Adagrad); None where no state is kept.
        seen: [n, 2] int32 of a dynamic table: how often, and the step when last; None of others.
    """

    first_row: int
    weight: Tensor
    optimizer: Tensor | None = None
    seen: Tensor | None = None


class SourceTable(Protocol):
    """A table to transfer from."""

    @property
    def num_rows(self) -> int:
        """Rows."""

    @property
    def dim(self) -> int:
        """Width of the rows."""

    @property
    def optimizer(self) -> str | None:
        """Whose state it keeps: "rowwise_adagrad" or "adagrad"; None: it keeps none."""

    @property
    def slots(self) -> HashSlots | None:
        """Of a multi-hash table's sub-table, whose rows have no ids; None of others."""

    def raw_ids(self) -> pa.Array | None:
        """[rows] int64 or large_string: what each row stands for; null: no id of its own.

        None where nobody said: such a table can only be copied row by row.
        """

    def counts(self) -> NDArray[np.int64] | None:
        """[rows] occurrences in what the source was trained on; None where nobody counted."""

    def pieces(self) -> Iterator[RowPiece]:
        """All rows, from the first on, at most LONGEST_PIECE at a time."""


class Source(Protocol):
    """Weights to transfer from."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def tables(self) -> Mapping[str, SourceTable]:
        """By table name."""

    def dense_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor that is not a table, by parameter name."""

    def dense(self, name: str) -> Tensor:
        """One of them."""

    def dense_state(self, name: str) -> Mapping[str, Tensor] | None:
        """The optimizer's state of one of them, by AdamW's names; None where none is kept."""


@dataclasses.dataclass(frozen=True)
class TableInMemory:
    """A table that is held whole.

    Args:
        weight: [rows, D] float32.
        ids: [rows] int64 or large_string, null where a row stands for no id; None: nobody said.
        num_seen: [rows] int64; None: nobody counted.
        state: of the optimizer, [rows] or [rows, D] float32.
        optimizer: whose state.
        slots: of a multi-hash table's sub-table.
    """

    weight: Tensor
    ids: pa.Array | None = None
    num_seen: NDArray[np.int64] | None = None
    state: Tensor | None = None
    optimizer: str | None = None
    slots: HashSlots | None = None

    @property
    def num_rows(self) -> int:
        """Rows."""
        return len(self.weight)

    @property
    def dim(self) -> int:
        """Width of the rows."""
        return self.weight.shape[1]

    def raw_ids(self) -> pa.Array | None:
        """[rows]."""
        return self.ids

    def counts(self) -> NDArray[np.int64] | None:
        """[rows]."""
        return self.num_seen

    def pieces(self) -> Iterator[RowPiece]:
        """All rows."""
        for first in range(0, self.num_rows, LONGEST_PIECE):
            part = slice(first, first + LONGEST_PIECE)
            yield RowPiece(
                first, self.weight[part], None if self.state is None else self.state[part]
            )


@dataclasses.dataclass(frozen=True)
class WeightsInMemory:
    """Weights that are held whole.

    Args:
        name: what messages call them.
        tables: by table name.
        tensors: what is not a table, by parameter name.
    """

    name: str
    tables: Mapping[str, TableInMemory]
    tensors: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    def dense_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """By parameter name."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def dense(self, name: str) -> Tensor:
        """One of them."""
        return self.tensors[name]

    def dense_state(self, name: str) -> Mapping[str, Tensor] | None:
        """None is kept."""
        return None
