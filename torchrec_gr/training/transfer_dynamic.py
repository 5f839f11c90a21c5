"""Transfers into dynamic tables, whose rows come with their raw ids."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchrec_gr.embeddings.dynamic_table import DynamicTable
from torchrec_gr.embeddings.table_rows import TableRows
from torchrec_gr.training.raw_ids import Ids, as_raw_ids, examples, index_of, windows
from torchrec_gr.training.source import RowPiece, SourceTable
from torchrec_gr.training.transfer_plan import TablePlan
from torchrec_gr.training.transfer_processes import Processes
from torchrec_gr.training.transfer_projection import projection, require_width
from torchrec_gr.training.transfer_report import TableTransfer

_MOST_SEEN = torch.iinfo(torch.int32).max


class DynamicTransfer:
    """A transfer into one dynamic table: checked when made, then matched, then copied.

    Args:
        name: of its weight in the state dict.
        table: this process's part.
        source: the source's table.
        plan: where its rows come from.

    Raises:
        ValueError: what was asked for cannot be done; nothing was touched.
    """

    def __init__(
        self, name: str, table: DynamicTable, source: SourceTable, plan: TablePlan
    ) -> None:
        self.name, self._table, self._source, self._plan = name, table, source, plan
        self._what = f"dynamic table {table.config.name!r}"
        require_width(self._what, source, table.config.embedding_dim, plan)
        self._ids = _ids(self._what, source, plan)
        self._chosen = np.zeros(0, dtype=np.bool_)
        self._num_rows = 0

    @property
    def is_resized(self) -> bool:
        """Whether the width is another, or source rows stayed behind."""
        return self._source.dim != self._table.config.embedding_dim or not self._chosen.all()

    @property
    def note(self) -> str:
        """Where the rows came from, and what stayed behind."""
        note = f"from {self._plan.source}"
        if self._plan.optimizer_state:
            note += ", with the optimizer's state"
        if num := len(self._ids) - self._ids.null_count - int(self._chosen.sum()):
            note += f"; {num:,} ids stayed behind: max_rows={self._table.config.max_rows:,}"
        return note

    def match(self, processes: Processes) -> None:
        """Chooses the ids that get rows, over all processes, and touches nothing."""
        self._chosen = self._ids.is_valid().to_numpy(zero_copy_only=False).copy()
        budget = self._table.config.max_rows
        if budget is None:
            return
        known, num_rows = processes.together(self._known), self._table.report().rows
        for other in processes.gather(np.packbits(known)):
            known |= np.unpackbits(other, count=len(known)).astype(np.bool_)
        num_others = sum(processes.gather(num_rows)) - int(known.sum())
        new = np.flatnonzero(self._chosen & ~known)
        room = max(0, budget - num_others - int(known.sum()))
        if len(new) > room:
            ids = self._ids.take(pa.array(new)).to_numpy()
            order = np.lexsort((ids, -self._counts[new].clip(1)))
            self._chosen[new[order[room:]]] = False

    def copy(self, processes: Processes) -> None:
        """Copies the rows, each process a share of each piece."""
        weights = processes.together(
            lambda: projection(self._source, self._table.config.embedding_dim)
        )
        weights = processes.gather(weights)[0]
        step = int(self._table.step)
        pieces = self._source.pieces()
        while rows := processes.together(lambda: self._next(pieces, weights, step, processes)):
            self._table.load_rows(rows)
        self._num_rows = sum(processes.gather(self._table.report().rows))

    def report(self) -> TableTransfer:
        """What came, over all processes."""
        num = int(self._chosen.sum())
        return TableTransfer(
            table=self._table.config.name,
            source=self._plan.source,
            rows=self._num_rows,
            found=num,
            traffic=None,
            unknown=self._num_rows - num,
            unknown_got="keep",
            unused=self._source.num_rows - num,
        )

    @functools.cached_property
    def _counts(self) -> NDArray[np.int64]:
        counts = self._source.counts()
        return np.ones(self._source.num_rows, dtype=np.int64) if counts is None else counts

    def _known(self) -> NDArray[np.bool_]:
        """[source rows] whether this process has a row for the id."""
        own = [rows.ids for rows in self._table.live_chunks()]
        index = index_of(pa.array(torch.cat([torch.empty(0, dtype=torch.int64), *own]).numpy()))
        parts = [index.find(ids) >= 0 for _, ids in windows(self._ids)]
        return torch.cat([torch.empty(0, dtype=torch.bool), *parts]).numpy()

    def _next(
        self,
        pieces: Iterator[RowPiece],
        weights: Tensor | None,
        step: int,
        processes: Processes,
    ) -> TableRows | None:
        """This process's share of the next piece's rows; None after the last."""
        piece = next(pieces, None)
        if piece is None:
            return None
        part = slice(piece.first_row, piece.first_row + len(piece.weight))
        places = torch.from_numpy(np.flatnonzero(self._chosen[part]))
        places = places[processes.rank :: processes.num]
        seen = self._seen(part)[places]
        rows = piece.weight[places]
        ids = self._ids.slice(part.start, len(piece.weight)).fill_null(0).to_numpy().copy()
        loaded = dataclasses.replace(
            TableRows.empty(self._table.config.embedding_dim),
            ids=torch.from_numpy(ids)[places],
            seen=torch.stack([seen, torch.full_like(seen, step)], dim=1),
            weight=rows if weights is None else rows @ weights,
            optimizer=torch.empty(len(places), 0),
        )
        if self._plan.optimizer_state and piece.optimizer is not None:
            loaded = dataclasses.replace(loaded, optimizer=piece.optimizer[places])
        return loaded

    def _seen(self, part: slice) -> Tensor:
        """[n] int32: how often the ids of some of the source's rows were seen, at least once."""
        return torch.from_numpy(self._counts[part].clip(1, _MOST_SEEN).astype(np.int32))


def _ids(what: str, source: SourceTable, plan: TablePlan) -> Ids:
    if plan.raw_ids is not None or plan.unknown != "keep" or plan.counts is not None:
        raise ValueError(
            f"{what}: its keys are raw ids, and it gets a row for each of the source's: leave "
            "raw_ids, unknown and counts out"
        )
    ids = source.raw_ids()
    if ids is None:
        raise ValueError(
            f"{what}: the vocabulary of {plan.source!r} is missing in the source, so nobody knows "
            "which ids its rows stand for: save it with its vocabulary"
        )
    ids = as_raw_ids(ids, f"{plan.source!r} of the source")
    if ids.type != pa.int64() and len(ids) > ids.null_count:
        raise ValueError(
            f"{what}: its keys are int64, but the source's raw ids are {ids.type}, such as "
            f"{examples(ids)}: train the source on integer ids, or make the table a static one"
        )
    ids = ids.cast(pa.int64()) if ids.type != pa.int64() else ids
    ordered = np.sort(ids.drop_null().to_numpy())
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise ValueError(
            f"{what}: in the source an id stands for more than one row, such as "
            f"{examples(pa.array(twice))}: it is not known which of them to take"
        )
    return ids
