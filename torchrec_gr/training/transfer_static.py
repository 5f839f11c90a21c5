"""Transfers into the shards of TorchRec's tables that this process holds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchrec_gr.schema.vocabulary import Vocabulary
from torchrec_gr.training.raw_ids import Ids, as_raw_ids, examples
from torchrec_gr.training.source import LONGEST_PIECE, RowPiece, SourceTable
from torchrec_gr.training.transfer_match import (
    Match,
    match_ids,
    match_rows,
    pick_rows,
)
from torchrec_gr.training.transfer_plan import SameRows, TablePlan
from torchrec_gr.training.transfer_processes import Processes
from torchrec_gr.training.transfer_projection import projection, require_width
from torchrec_gr.training.transfer_report import TableTransfer
from torchrec_gr.training.transfer_targets import Shard, StaticTable


class Found(NamedTuple):
    """What a process found for some of the rows of a table.

    Args:
        rows, shared_ids, unknown: as `Match` has them.
        traffic: of the rows that were found.
    """

    rows: int
    shared_ids: int
    unknown: int
    traffic: int


class StaticTransfer:
    """A transfer into one table: checked when made, then matched, then copied.

    Args:
        table: its name.
        target: where it lies.
        source: the source's table.
        plan: where its rows come from.
        state: the optimizer's, where it comes along.

    Raises:
        ValueError: what was asked for cannot be done; nothing was touched.
    """

    def __init__(
        self,
        table: str,
        target: StaticTable,
        source: SourceTable,
        plan: TablePlan,
        state: StaticTable | None,
    ) -> None:
        self._table, self._target, self._source, self._plan = table, target, source, plan
        self._what = f"table {table!r}"
        num_rows, dim = target.shape
        require_width(self._what, source, dim, plan)
        self._ids = _ids(self._what, num_rows, source, plan)
        self._counts = _counts(self._what, num_rows, plan)
        self._states = {held.first: held.weights for held in state.held} if state else {}
        self._matches: list[Match] = []
        self._found: list[Found] = []

    @property
    def name(self) -> str:
        """Of the parameter."""
        return self._target.name

    @property
    def is_resized(self) -> bool:
        """Whether the target has other rows, or another width."""
        return self._target.shape != (self._source.num_rows, self._source.dim)

    @property
    def note(self) -> str:
        """Where the rows came from."""
        with_state = ", with the optimizer's state" if self._plan.optimizer_state else ""
        return f"from {self._plan.source}{with_state}"

    def match(self, processes: Processes) -> None:
        """Finds out which row takes which, over all processes, and touches nothing.

        Raises:
            ValueError: an id that stands for two rows; or source and target share none.
        """
        self._matches = processes.together(self._matched)
        own = processes.together(self._counted)
        # Shards of the same rows in other columns have found the same.
        by_rows = {first: f for part in processes.gather(own) for first, f in part.items()}
        self._found = list(by_rows.values())
        if not sum(found.shared_ids for found in self._found):
            self._refuse_no_overlap()
        self._ids = None  # as large as a column of the table

    def copy(self, processes: Processes) -> None:
        """Copies the rows."""
        weights = processes.together(lambda: projection(self._source, self._target.shape[1]))
        weights = processes.gather(weights)[0]  # the same to the last bit
        processes.together(lambda: self._copy(weights))

    def report(self) -> TableTransfer:
        """What was found, over all processes."""
        found = sum(found.rows for found in self._found)
        traffic = None
        if self._counts is not None:
            traffic = sum(f.traffic for f in self._found) / max(1, int(self._counts.sum()))
        return TableTransfer(
            table=self._table,
            source=self._plan.source,
            rows=self._target.shape[0],
            found=found,
            traffic=traffic,
            unknown=sum(found.unknown for found in self._found),
            unknown_got=self._plan.unknown,
            unused=self._source.num_rows - found,
        )

    def _matched(self) -> list[Match]:
        if self._ids is None:
            return [
                match_rows(self._source.num_rows, held.first, held.num_rows)
                for held in self._target.held
            ]
        source, target = self._ids
        matches = [
            match_ids(source, target, held.first, held.num_rows, self._what)
            for held in self._target.held
        ]
        if self._plan.unknown == "hash":
            for place, held in enumerate(self._target.held):
                own = target.slice(held.first, held.num_rows)
                picked = pick_rows(matches[place].unknown, own, source)
                matches[place] = matches[place]._replace(picked=picked)
        return matches

    def _counted(self) -> dict[int, Found]:
        """By the first of the rows."""
        return {
            held.first: self._count(held.first, match)
            for held, match in zip(self._target.held, self._matches, strict=True)
        }

    def _count(self, first: int, match: Match) -> Found:
        traffic = 0
        if self._counts is not None:
            traffic = int(self._counts[match.found.target.numpy() + first].sum())
        return Found(len(match.found.target), match.num_shared_ids, len(match.unknown), traffic)

    def _refuse_no_overlap(self) -> None:
        ids = self._ids or (pa.array([], pa.int64()),) * 2
        raise ValueError(
            f"{self._what} and {self._plan.source!r} of the source share no id: the source's are "
            f"such as {examples(ids[0])}, the table's such as {examples(ids[1])}. Give the raw ids "
            "of the data that the source was trained on, not row numbers"
        )

    @torch.no_grad()
    def _copy(self, weights: Tensor | None) -> None:
        if not self._target.held:
            return
        total = torch.zeros(self._source.dim, dtype=torch.float64)
        for piece in self._source.pieces():
            if self._plan.unknown == "mean":
                total += piece.weight.sum(0, dtype=torch.float64)
            self._copy_piece(piece, weights)
            del piece  # before the next is read
        if self._plan.unknown == "mean":
            mean = _projected((total / self._source.num_rows).float().unsqueeze(0), weights)
            for held, match in zip(self._target.held, self._matches, strict=True):
                for rows in match.unknown.split(LONGEST_PIECE):
                    _write(held.weights, rows.long(), mean.expand(len(rows), -1))

    def _copy_piece(self, piece: RowPiece, weights: Tensor | None) -> None:
        first, num = piece.first_row, len(piece.weight)
        for held, match in zip(self._target.held, self._matches, strict=True):
            for pairs in (match.found, match.picked):
                places, rows = pairs.within(first, num)
                _write(held.weights, rows, _projected(piece.weight[places], weights))
            if held.first in self._states and piece.optimizer is not None:
                places, rows = match.found.within(first, num)
                _write(self._states[held.first], rows, piece.optimizer.view(num, -1)[places])


def _projected(rows: Tensor, weights: Tensor | None) -> Tensor:
    return rows if weights is None else rows @ weights


def _write(shards: list[Shard], rows: Tensor, values: Tensor) -> None:
    for columns, shard in shards:
        shard[rows.to(shard.device)] = values[:, columns].to(shard)


def _ids(what: str, num_rows: int, source: SourceTable, plan: TablePlan) -> tuple[Ids, Ids] | None:
    """The raw ids of source and target; None where rows are copied by number."""
    if isinstance(plan.raw_ids, SameRows):
        if plan.unknown == "hash":
            raise ValueError(
                f"{what}: unknown='hash' needs raw_ids: SAME_ROWS says nothing of the other rows"
            )
        if num_rows < source.num_rows:
            raise ValueError(
                f"{what} has {num_rows:,} rows, {plan.source!r} of the source {source.num_rows:,}: "
                "SAME_ROWS needs at least as many; give the table's raw_ids instead"
            )
        return None
    if plan.raw_ids is None:
        raise ValueError(
            f"{what}: raw_ids is missing: say what its {num_rows:,} rows stand for, by its "
            "Vocabulary or an array; or SAME_ROWS, where row i is the source's row i"
        )
    target = as_raw_ids(plan.raw_ids, what)
    if len(target) != num_rows:
        raise ValueError(
            f"{what} has {num_rows:,} rows, but raw_ids has {len(target):,}: give one for each "
            "row, null for rows that stand for no id"
        )
    ids = source.raw_ids()
    if ids is None:
        raise ValueError(
            f"{what}: the vocabulary of {plan.source!r} is missing in the source, so nobody knows "
            "what its rows stand for: save it with its vocabulary, or copy row by row, by SAME_ROWS"
        )
    ids = as_raw_ids(ids, f"{plan.source!r} of the source")
    if target.null_count == len(target):
        target = target.cast(ids.type)  # it has no id, so no type of its own
    elif ids.null_count == len(ids):
        ids = ids.cast(target.type)
    if ids.type != target.type:
        raise ValueError(
            f"{what}: the source's raw ids are {ids.type}, such as {examples(ids)}, but raw_ids "
            f"are {target.type}, such as {examples(target)}: convert them to the source's type"
        )
    return ids, target


def _counts(what: str, num_rows: int, plan: TablePlan) -> NDArray[np.int64] | None:
    counts = plan.counts
    if counts is None and isinstance(plan.raw_ids, Vocabulary):
        counts = plan.raw_ids.counts
    if counts is not None and len(counts) != num_rows:
        raise ValueError(
            f"{what} has {num_rows:,} rows, but counts has {len(counts):,}: give one for each row"
        )
    return None if counts is None else np.asarray(counts)
