"""Rows of a dynamic table with all that belongs to them, to be moved and kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class TableRows:
    """What some ids of one table have.

    Args:
        ids: [n] int64, different from each other.
        seen: [n, 2] int32: how often each was seen (at least 1; a row of 0 is none, and skipped),
            and the step at which it was last.
        weight: [n, D] float32.
        optimizer: float32, [n, D] (Adagrad), [n] (row-wise Adagrad), or [n, 0]: none, which counts
            as zeros.
        waiting_ids: [c] int64: ids seen too seldom for a row yet.
        waiting_seen: [c, 2] int32.
    """

    ids: Tensor
    seen: Tensor
    weight: Tensor
    optimizer: Tensor
    waiting_ids: Tensor
    waiting_seen: Tensor

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of the fields."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def empty(cls, dim: int, state_shape: tuple[int, ...] = (0, 0)) -> TableRows:
        """No ids, of a table of this width and this shape of no optimizer state."""
        return cls(
            ids=torch.empty(0, dtype=torch.int64),
            seen=torch.empty(0, 2, dtype=torch.int32),
            weight=torch.empty(0, dim),
            optimizer=torch.empty(state_shape),
            waiting_ids=torch.empty(0, dtype=torch.int64),
            waiting_seen=torch.empty(0, 2, dtype=torch.int32),
        )

    @classmethod
    def concatenated(cls, parts: Sequence[TableRows]) -> TableRows:
        """The parts, at least one, one after the other."""
        return cls(**{name: torch.cat([getattr(p, name) for p in parts]) for name in cls.names()})

    def kept(self, rows: Tensor, waiting: Tensor) -> TableRows:
        """Those of the given places, or where the given masks are true."""
        return TableRows(
            ids=self.ids[rows],
            seen=self.seen[rows],
            weight=self.weight[rows],
            optimizer=self.optimizer[rows],
            waiting_ids=self.waiting_ids[waiting],
            waiting_seen=self.waiting_seen[waiting],
        )

    def live(self) -> TableRows:
        """Those that were seen at all."""
        return self.kept(self.seen[:, 0] > 0, self.waiting_seen[:, 0] > 0)
