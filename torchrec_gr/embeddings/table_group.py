"""Dynamic tables of one width, merged into one physical table: one map, one call for all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchrec_gr.embeddings.dynamic_config import DynamicEmbeddingConfig
from torchrec_gr.embeddings.id_slots import IdSlots, by_chunk
from torchrec_gr.embeddings.large_pages import zeros_on_large_pages
from torchrec_gr.embeddings.row_optimizer import RowOptimizer
from torchrec_gr.embeddings.table_rows import TableRows
from torchrec_gr.ops import gather_rows, init_rows_, update_rows_

_EVICTED_AT_ONCE = 16
"""A full table frees one row of so many beyond those it needs."""


class Reading(NamedTuple):
    """How a batch reads rows that it found: each once, or as this says.

    Args:
        places: [m] int64: among the rows, in the order in which they are read.
        bags: [B + 1] int64: offsets of the bags in which the places are summed.
        factors: [m] float32 of the places.
    """

    places: Tensor | None = None
    bags: Tensor | None = None
    factors: Tensor | None = None


ONCE = Reading()
"""Each row once."""


class TableGroup:
    """The rows of several tables of one width that this process holds.

    Ids come table by table: table t's are `ids[offsets[t]:offsets[t + 1]]`, different from each
    other. A slot names a row of the group; -1 is the row of zeros that ids without a row share.

    Args:
        configs: of the tables.
        num_processes: over how many processes their budgets are spread.
    """

    def __init__(self, configs: Sequence[DynamicEmbeddingConfig], num_processes: int = 1) -> None:
        self.configs = list(configs)
        self.dim = configs[0].embedding_dim
        self.budgets = [c.max_rows and -(-c.max_rows // num_processes) for c in configs]
        self.rows = IdSlots(self.budgets)
        self.waiting = IdSlots(self.budgets)
        self.weights: list[Tensor] = []
        self.states: list[Tensor] = []
        self.seeds = [0] * len(configs)
        self.optimizers: list[RowOptimizer | None] = [None] * len(configs)
        self.num_admitted = [0] * len(configs)
        self.num_evicted = [0] * len(configs)
        self.forgotten: list[list[Tensor] | None] = [None] * len(configs)

    def find(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """[n] int64 slots of ids [n]; -1 where an id has no row."""
        return self.rows.find(ids, offsets)

    def assign(self, ids: Tensor, offsets: Tensor, counts: Tensor, step: int) -> Tensor:
        """Finds the ids of a training batch, counts them, and gives rows to those that get one.

        Args:
            ids: [n] int64.
            offsets: [tables + 1] int64.
            counts: [n] int64, how often each is in the batch.
            step: of the batch, larger than any before.

        Returns:
            [n] int64 slots.

        Raises:
            ValueError: the batch needs more rows of a table than its budget allows. No row was
                given or taken away.
        """
        slots = self.find(ids, offsets)
        new = torch.nonzero(slots < 0).squeeze(1)
        earlier, admitted = self._admitted(
            ids[new], torch.searchsorted(new, offsets), counts[new], step
        )
        new, earlier = new[admitted], earlier[admitted]
        new_offsets = torch.searchsorted(new, offsets)
        self._require_budget(slots, offsets, new_offsets)
        self.rows.touch(slots, counts, step)  # and so keeps them from being evicted
        if len(new):
            for table, num in enumerate(new_offsets.diff().tolist()):
                if num:
                    self._make_room(table, num, step)
                    self.num_admitted[table] += num
            fresh = self._insert(ids[new], new_offsets)
            self.rows.touch(fresh, counts[new] + earlier, step)
            slots[new] = fresh
        return slots

    def gather(self, slots: Tensor, reading: Reading = ONCE) -> Tensor:
        """[m, dim] the rows of slots [n], as often, or pooled, as a batch reads them."""
        return gather_rows(self.weights, slots, self.dim, *reading)

    def update(
        self,
        slots: Tensor,
        offsets: Tensor,
        grads: Tensor,
        trained: Sequence[bool],
        reading: Reading = ONCE,
    ) -> None:
        """Takes one optimizer step on the rows of slots [n], different from each other.

        Args:
            slots: [n] int64; -1 is skipped.
            offsets: [tables + 1] int64.
            grads: of what `gather` gave.
            trained: of each table, whether its rows move.
            reading: as `gather` had it.

        Raises:
            RuntimeError: a table is to be trained, and was given no optimizer.
        """
        steps = [
            self._step(table) if trained[table] and num else ("none", 0.0, 0.0)
            for table, num in enumerate(offsets.diff().tolist())
        ]
        names, lrs, eps = zip(*steps, strict=True)
        update_rows_(
            self.weights,
            self.states,
            slots,
            offsets,
            grads,
            names,
            lrs,
            eps,
            index=reading.places,
            offsets=reading.bags,
            factors=reading.factors,
        )

    def set_optimizer(self, table: int, optimizer: RowOptimizer | None) -> None:
        """From now on a table is trained by this; a state of another shape begins anew."""
        self.optimizers[table] = optimizer
        for chunk in self.rows.chunks_of(table):
            shape = self.state_shape(table, len(self.weights[chunk]))
            if self.states[chunk].shape != shape:
                self.states[chunk] = torch.zeros(shape)

    def state_shape(self, table: int, num_rows: int) -> tuple[int, ...]:
        """The shape of the optimizer state of so many rows of a table."""
        optimizer = self.optimizers[table]
        return (num_rows, 0) if optimizer is None else optimizer.state_shape(num_rows, self.dim)

    def chunk_rows(self, table: int, chunk: int) -> TableRows:
        """The places of a chunk of a table's rows, free ones too; not copied."""
        none = TableRows.empty(self.dim, self.state_shape(table, 0))
        return dataclasses.replace(
            none,
            ids=self.rows.chunk_ids[chunk],
            seen=self.rows.chunk_seen[chunk],
            weight=self.weights[chunk],
            optimizer=self.states[chunk],
        )

    def chunk_waiting(self, table: int, chunk: int) -> TableRows:
        """The places of a chunk of a table's waiting ids, free ones too; not copied."""
        none = TableRows.empty(self.dim, self.state_shape(table, 0))
        ids, seen = self.waiting.chunk_ids[chunk], self.waiting.chunk_seen[chunk]
        return dataclasses.replace(none, waiting_ids=ids, waiting_seen=seen)

    def load(self, table: int, rows: TableRows) -> None:
        """Takes rows of a table over as they are; ids that are known are overwritten."""
        ids, offsets = rows.ids, self._offsets(table, len(rows.ids))
        slots = self.find(ids, offsets)
        self._stop_waiting(table, torch.cat([ids, rows.waiting_ids]))
        new = torch.nonzero(slots < 0).squeeze(1)
        slots[new] = self._insert(ids[new], self._offsets(table, len(new)))
        for chunk, places, of in by_chunk(slots):
            self.rows.chunk_seen[chunk][places] = rows.seen[of]
            self.weights[chunk][places] = rows.weight[of]
            if rows.optimizer.numel():
                self.states[chunk][places] = rows.optimizer[of]
        offsets = self._offsets(table, len(rows.waiting_ids))
        waiting = self.waiting.insert(rows.waiting_ids, offsets)
        for chunk, places, of in by_chunk(waiting):
            self.waiting.chunk_seen[chunk][places] = rows.waiting_seen[of]

    def remove(self, table: int, ids: Tensor) -> None:
        """Forgets ids of a table; those that are unknown already are passed over."""
        ids = ids.unique()
        slots = self.find(ids, self._offsets(table, len(ids)))
        self.rows.remove(slots[slots >= 0])
        self._stop_waiting(table, ids)

    def _step(self, table: int) -> tuple[str, float, float]:
        """What a table's optimizer does to its rows: its name, learning rate and epsilon."""
        optimizer = self.optimizers[table]
        if optimizer is None:
            raise RuntimeError(
                f"table {self.configs[table].name!r} has no optimizer: before training, call "
                "apply_optimizer_in_backward (torchrec.optim.apply_optimizer_in_backward) on the "
                "collection's parameters, or set requires_grad_(False) on those to freeze"
            )
        return optimizer.name, optimizer.lr, optimizer.eps

    def _admitted(
        self, ids: Tensor, offsets: Tensor, counts: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """Of ids without a row: how often each was seen before, and whether it gets one now."""
        total = counts.clone()
        needed = torch.ones_like(counts)
        bounds = offsets.tolist()
        for table, config in enumerate(self.configs):
            part = slice(bounds[table], bounds[table + 1])
            if config.admit_after > 1 and part.start < part.stop:
                needed[part] = config.admit_after
                total[part] = self._wait(table, ids[part], counts[part], step)
        return total - counts, total >= needed

    def _wait(self, table: int, ids: Tensor, counts: Tensor, step: int) -> Tensor:
        """Counts ids that wait for a row; [n] how often each was seen by now."""
        slots = self.waiting.find(ids, self._offsets(table, len(ids)))
        self.waiting.touch(slots, torch.zeros_like(counts), step)  # they are not evicted now
        new = torch.nonzero(slots < 0).squeeze(1)
        budget = self.budgets[table]
        if budget is not None:
            excess = self.waiting.num_ids(table) + len(new) - budget
            if excess > 0:
                num = excess + budget // _EVICTED_AT_ONCE
                oldest = self.waiting.oldest(table, num, "lru", step)
                self._note_forgotten(table, self.waiting.remove(oldest))
            new = new[: budget - self.waiting.num_ids(table)]
        offsets = self._offsets(table, len(new))
        slots[new] = self.waiting.insert(ids[new], offsets)
        total = torch.where(slots < 0, counts, self.waiting.touch(slots, counts, step))
        self.waiting.remove(slots[(slots >= 0) & (total >= self.configs[table].admit_after)])
        return total

    def _stop_waiting(self, table: int, ids: Tensor) -> None:
        slots = self.waiting.find(ids, self._offsets(table, len(ids)))
        self.waiting.remove(slots[slots >= 0])

    def _require_budget(self, slots: Tensor, offsets: Tensor, new_offsets: Tensor) -> None:
        if all(budget is None for budget in self.budgets):
            return
        known = [int((part >= 0).sum()) for part in slots.tensor_split(offsets[1:-1])]
        for table, new in enumerate(new_offsets.diff().tolist()):
            budget = self.budgets[table]
            if budget is not None and known[table] + new > budget:
                config = self.configs[table]
                raise ValueError(
                    f"table {config.name!r}: one batch needs {known[table] + new:,} rows at once "
                    f"on this process, but its share of max_rows={config.max_rows:,} is "
                    f"{budget:,}: raise max_rows or make batches smaller"
                )

    def _insert(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """[n] fresh rows for ids [n] that have none."""
        slots = self.rows.insert(ids, offsets)
        self._add_values()
        bounds = offsets.tolist()
        for table, config in enumerate(self.configs):
            part = slice(bounds[table], bounds[table + 1])
            if part.start < part.stop:
                seed, std = self.seeds[table], config.init_std
                init_rows_(
                    self.weights,
                    self.states,
                    slots[part],
                    ids[part],
                    seed,
                    std,
                )
        return slots

    def _make_room(self, table: int, needed: int, step: int) -> None:
        """Evicts what a table's policy and budget say, before so many ids get rows."""
        config, budget = self.configs[table], self.budgets[table]
        num = 0
        if config.max_age is not None and needed > self.rows.num_free(table):
            num = self.rows.num_last_seen_before(table, step - config.max_age)
        if budget is not None:
            excess = self.rows.num_ids(table) + needed - budget
            if excess > num:
                num = excess + budget // _EVICTED_AT_ONCE
        if num:
            policy = "lfu" if config.eviction == "lfu" else "lru"
            evicted = self.rows.oldest(table, num, policy, step)
            self.num_evicted[table] += len(evicted)
            self._note_forgotten(table, self.rows.remove(evicted))

    def _note_forgotten(self, table: int, ids: Tensor) -> None:
        forgotten = self.forgotten[table]
        if forgotten is not None:
            forgotten.append(ids)

    def _add_values(self) -> None:
        """Weights and states for chunks that are new."""
        for chunk in range(len(self.weights), len(self.rows.chunk_ids)):
            num_rows = len(self.rows.chunk_ids[chunk])
            self.weights.append(zeros_on_large_pages(num_rows, self.dim))
            shape = self.state_shape(self.rows.chunk_tables[chunk], num_rows)
            self.states.append(zeros_on_large_pages(*shape))

    def _offsets(self, table: int, num: int) -> Tensor:
        """The offsets of `num` ids that are all of one table."""
        return torch.tensor([0] * (table + 1) + [num] * (len(self.configs) - table))
