"""One dynamic table, as a user and a checkpoint see it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.model_parallel import get_unwrapped_module

from torchrec_gr.embeddings.dynamic_config import DynamicEmbeddingConfig
from torchrec_gr.embeddings.id_router import IdRouter
from torchrec_gr.embeddings.row_optimizer import RowOptimizer
from torchrec_gr.embeddings.sharded_rows import sharded_rows
from torchrec_gr.embeddings.table_group import TableGroup
from torchrec_gr.embeddings.table_rows import TableRows


@dataclasses.dataclass(frozen=True)
class TableReport:
    """What a dynamic table holds on one process, and what has come and gone there.

    Args:
        rows: ids that have a row.
        waiting: ids that were seen too seldom for one.
        admitted, evicted: rows given and taken away since the process began.
        bytes: allocated for rows, optimizer state, ids and the map.
    """

    rows: int
    waiting: int
    admitted: int
    evicted: int
    bytes: int


class DynamicTable(nn.Module):
    """A dynamic table of a collection: this process's part of it, where processes share it.

    `weight` is a parameter of shape [0, dim]: it bears the table's name, its optimizer and
    `requires_grad`, without which the table is frozen: in training, too, it is read as in
    evaluation and nothing of it changes. The rows are elsewhere. In the state dict, "weight"
    [R, dim] holds the rows, beside it "ids" [R], "seen" [R, 2] (count, 0 where a place is free;
    last step), "optimizer" [R, ...], and "waiting_ids" [C], "waiting_seen" [C, 2]: see `TableRows`.
    Where processes share the table these are ShardedTensors, views of the rows, and all processes
    must ask for the state dict together. "step" counts training batches, without those in which
    the table was frozen; "seed" gives the fresh rows.

    Args:
        group: the physical table that it is part of.
        number: its place in the group.
        router: to the processes that share it; None where one holds it all.
    """

    step: Tensor
    seed: Tensor

    def __init__(self, group: TableGroup, number: int, router: IdRouter | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0, group.dim))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seed", torch.randint(1 << 62, ()))
        self._group, self._number, self._router = group, number, router
        self._saved_step = -1
        self.use_seed()

    @property
    def config(self) -> DynamicEmbeddingConfig:
        """What the user said of it."""
        return self._group.configs[self._number]

    @property
    def is_frozen(self) -> bool:
        """Whether training changes nothing of it, its rows, counts and step."""
        return not self.weight.requires_grad

    @property
    def is_shared(self) -> bool:
        """Whether processes hold a part of it each; otherwise this one holds all."""
        return self._router is not None

    @property
    def optimizer(self) -> RowOptimizer | None:
        """What trains the rows."""
        return self._group.optimizers[self._number]

    def use_optimizer(self, optimizer: RowOptimizer | None) -> None:
        """Trains the rows by this from now on; a state of another shape begins anew."""
        if optimizer != self.optimizer:
            self._group.set_optimizer(self._number, optimizer)

    def report(self) -> TableReport:
        """How many rows and bytes there are on this process."""
        group, number = self._group, self._number
        values = sum(
            group.weights[chunk].nbytes + group.states[chunk].nbytes
            for chunk in group.rows.chunks_of(number)
        )
        return TableReport(
            rows=group.rows.num_ids(number),
            waiting=group.waiting.num_ids(number),
            admitted=group.num_admitted[number],
            evicted=group.num_evicted[number],
            bytes=values + group.rows.num_bytes(number) + group.waiting.num_bytes(number),
        )

    def rows(self, seen_after: int = -1) -> TableRows:
        """Copies of this process's rows and waiting ids last seen after a step; default: all."""
        parts = [
            _live(self._group.chunk_rows(self._number, chunk), seen_after)
            for chunk in self._group.rows.chunks_of(self._number)
        ]
        waiting = [
            _live(self._group.chunk_waiting(self._number, chunk), seen_after)
            for chunk in self._group.waiting.chunks_of(self._number)
        ]
        return TableRows.concatenated([self._none(), *parts, *waiting])

    def live_chunks(self) -> Iterator[TableRows]:
        """Copies of this process's rows, a chunk at a time, without the waiting ids."""
        for chunk in self._group.rows.chunks_of(self._number):
            yield self._group.chunk_rows(self._number, chunk).live()

    def clear(self) -> None:
        """Forgets all ids of this process."""
        self._forget_mark()
        self._group.rows.clear(self._number)
        self._group.waiting.clear(self._number)

    def load_rows(self, rows: TableRows) -> None:
        """Takes rows over as they are, each on the process that holds it; known ids are replaced.

        All processes that share the table take part, each with any rows, or none.

        Raises:
            ValueError: rows of another width, or an optimizer state of another shape.
        """
        rows = self._checked(rows)
        self._forget_mark()
        self._group.load(self._number, rows if self._router is None else self._router.send(rows))

    def remove_ids(self, ids: Tensor) -> None:
        """Forgets ids [n] int64, wherever they are; those unknown are passed over.

        All processes that share the table take part, each with any ids, or none.
        """
        self._forget_mark()
        if self._router is not None:
            ids = self._router.send_ids(ids)
        self._group.remove(self._number, ids)

    @property
    def is_marked(self) -> bool:
        """Whether training alone has changed the table since `mark_saved`.

        If so, `touched` and `removed` are all that has; rows that were loaded or removed since are
        not among them.
        """
        return self._group.forgotten[self._number] is not None

    def touched(self) -> TableRows:
        """Copies of what this process has seen since `mark_saved`; of all before the first."""
        return self.rows(self._saved_step)

    def removed(self) -> Tensor:
        """[n] the ids that this process has evicted since `mark_saved`."""
        return torch.cat(
            [torch.empty(0, dtype=torch.int64), *(self._group.forgotten[self._number] or [])]
        )

    def mark_saved(self) -> None:
        """From now on, note what changes."""
        self._saved_step = int(self.step)
        self._group.forgotten[self._number] = []

    def use_seed(self) -> None:
        """Gives fresh rows by `seed` from now on, which may have been loaded in place."""
        self._group.seeds[self._number] = int(self.seed)

    def _forget_mark(self) -> None:
        self._saved_step = -1
        self._group.forgotten[self._number] = None

    def _none(self) -> TableRows:
        return TableRows.empty(self._group.dim, self._state_shape(0))

    def _state_shape(self, num_rows: int) -> tuple[int, ...]:
        return self._group.state_shape(self._number, num_rows)

    def _checked(self, rows: TableRows) -> TableRows:
        name, shape = self.config.name, self._state_shape(len(rows.ids))
        if rows.weight.shape != (len(rows.ids), self._group.dim):
            raise ValueError(
                f"table {name!r}: cannot load rows of shape {tuple(rows.weight.shape)}: expected "
                f"{(len(rows.ids), self._group.dim)}"
            )
        if rows.optimizer.numel() == 0:
            return dataclasses.replace(rows, optimizer=torch.zeros(shape))
        if rows.optimizer.shape != shape:
            raise ValueError(
                f"table {name!r}: cannot load an optimizer state of shape "
                f"{tuple(rows.optimizer.shape)}: this table's optimizer keeps {shape}; train it by "
                "the optimizer that wrote the state, or leave the state out"
            )
        return rows

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[no-untyped-call]
        if self._router is None:
            rows = self.rows()
            destination.update({prefix + name: value for name, value in vars(rows).items()})
            return
        group, number = self._group, self._number
        chunks = [group.chunk_rows(number, c) for c in group.rows.chunks_of(number)]
        waiting = [group.chunk_waiting(number, c) for c in group.waiting.chunks_of(number)]
        for name, none in vars(self._none()).items():
            parts = [
                getattr(part, name) for part in (waiting if name.startswith("waiting") else chunks)
            ]
            destination[prefix + name] = sharded_rows(parts, none, self._router.group)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        names = [*TableRows.names(), "step", "seed"]
        missing = [prefix + name for name in names if prefix + name not in state_dict]
        if missing:
            missing_keys.extend(missing)
            return
        with torch.no_grad():
            self.step.copy_(state_dict[prefix + "step"])
            self.seed.copy_(state_dict[prefix + "seed"])
        self.use_seed()
        values = {name: state_dict[prefix + name] for name in TableRows.names()}
        rows = TableRows(**{name: _local(value) for name, value in values.items()}).live()
        self.clear()
        if any(isinstance(value, ShardedTensor) for value in values.values()):
            self.load_rows(rows)  # each process has a part
        else:
            rows = self._checked(rows)
            self._group.load(self._number, rows if self._router is None else self._router.own(rows))


def dynamic_tables(model: nn.Module) -> dict[str, DynamicTable]:
    """The dynamic tables of a model, sharded or not, by their path in its state dict."""
    modules = get_unwrapped_module(model).named_modules()
    return {name: module for name, module in modules if isinstance(module, DynamicTable)}


def _live(part: TableRows, seen_after: int) -> TableRows:
    """Copies of what was last seen after a step."""
    rows, waiting = (
        (seen[:, 0] > 0) & (seen[:, 1] > seen_after) for seen in (part.seen, part.waiting_seen)
    )
    return part.kept(rows, waiting)


def _local(value: Tensor | ShardedTensor) -> Tensor:
    if not isinstance(value, ShardedTensor):
        return value.detach()
    none = torch.empty(0, *value.metadata().size[1:], dtype=value.dtype)
    return torch.cat([none, *(shard.tensor.detach() for shard in value.local_shards())])
