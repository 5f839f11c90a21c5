"""What a process holds of a model: parts of its tables, and the tensors that are no tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor

from torchrec_gr.embeddings.dynamic_table import DynamicTable, dynamic_tables
from torchrec_gr.embeddings.multi_hash import hash_slots
from torchrec_gr.embeddings.multi_hash_config import HashSlots
from torchrec_gr.pretrained.artefact.record import PretrainedError
from torchrec_gr.training.optimizer import ScheduledOptimizer
from torchrec_gr.training.tables import table_of


class Part(NamedTuple):
    """A part of one field of a table, on this process.

    Args:
        field: "weight", "optimizer", "ids" or "seen".
        values: [n, columns] or [n].
        first_row, first_column: where it begins: in the table, or, of a dynamic table, in what
            this process holds of it.
    """

    field: str
    values: Tensor
    first_row: int
    first_column: int = 0


@dataclasses.dataclass(frozen=True)
class TableParts:
    """A table of a model, as this process sees it.

    Args:
        parameter: its name in the state dict.
        num_rows: of all processes; of a dynamic table, of this one.
        dim: its width.
        is_dynamic: its rows are its processes', one after the other.
        optimizer: whose state is kept.
        left_out: what state is not, in words.
        dtypes: of the fields; with `row_shapes` what they are even where no part is here.
        row_shapes: of the fields.
        parts: gives the parts that are here.
        slots: of a multi-hash table's sub-table.
    """

    parameter: str
    num_rows: int
    dim: int
    is_dynamic: bool
    optimizer: str | None
    left_out: str | None
    dtypes: Mapping[str, torch.dtype]
    row_shapes: Mapping[str, tuple[int, ...]]
    parts: Callable[[], Iterator[Part]]
    slots: HashSlots | None = None


@dataclasses.dataclass(frozen=True)
class ModelParts:
    """A model, as this process sees it.

    Args:
        tables: by table name.
        dense: whole tensors by name in the state dict.
        dense_state: of AdamW, by the same names and then by AdamW's.
    """

    tables: Mapping[str, TableParts]
    dense: Mapping[str, Tensor]
    dense_state: Mapping[str, Mapping[str, Tensor]]


def model_parts(model: nn.Module, optimizer: ScheduledOptimizer | None) -> ModelParts:
    """Looks at a model without copying a sharded table; all processes must call together.

    Raises:
        PretrainedError: it holds what an artefact cannot.
    """
    entries = model.state_dict()
    states = {} if optimizer is None else optimizer.state_dict()["state"]
    tables: dict[str, TableParts] = {}
    prefixes = []
    for path, table in dynamic_tables(model).items():
        _add(tables, table.config.name, _dynamic_parts(path, table, optimizer is not None))
        prefixes.append(f"{path}.")
    dense: dict[str, Tensor] = {}
    slots = hash_slots(model)
    for name, value in entries.items():
        if name.startswith(tuple(prefixes)):
            continue
        _require_saveable(name, value)
        if (of := table_of(name)) is not None:
            parts = _static_parts(name, value, states.get(name, {}))
            _add(tables, of, dataclasses.replace(parts, slots=slots.get(of)))
        else:
            dense[name] = value.detach()
    return ModelParts(tables, dense, {n: dict(states[n]) for n in dense if states.get(n)})


def _add(tables: dict[str, TableParts], name: str, parts: TableParts) -> None:
    if name in tables:
        raise PretrainedError(
            f"{tables[name].parameter} and {parts.parameter} are both tables called {name!r}: a "
            "table's name must be its own, give one of them another"
        )
    tables[name] = parts


def _require_saveable(name: str, value: Any) -> None:
    if not isinstance(value, Tensor | ShardedTensor):
        raise PretrainedError(f"{name} is a {type(value).__name__}: an artefact holds tensors")
    table = table_of(name)
    if isinstance(value, ShardedTensor):
        if table is None:
            raise PretrainedError(f"{name} is sharded and no table: expected a whole tensor")
    elif value.is_meta:
        raise PretrainedError(
            f"{name} is on the meta device and holds nothing yet: save a model that was trained"
        )
    if table is not None and not _dtype(value).is_floating_point:
        raise PretrainedError(
            f"the rows of table {table!r} are {_dtype(value)}: save a model that is not quantised"
        )


def _static_parts(name: str, weight: Any, state: Mapping[str, Any]) -> TableParts:
    num_rows, dim = _size(weight)
    optimizer, sums, left_out = _row_state(state, num_rows, dim)
    fields = {"weight": weight} | ({} if sums is None else {"optimizer": sums})

    def parts() -> Iterator[Part]:
        for field, value in fields.items():
            for values, offsets in _local(value):
                if values.numel():
                    yield Part(field, values, *offsets)

    return TableParts(
        parameter=name,
        num_rows=num_rows,
        dim=dim,
        is_dynamic=False,
        optimizer=optimizer,
        left_out=left_out,
        dtypes={field: _dtype(value) for field, value in fields.items()},
        row_shapes={field: _size(value)[1:] for field, value in fields.items()},
        parts=parts,
    )


def _size(value: Tensor | ShardedTensor) -> tuple[int, ...]:
    return tuple(value.metadata().size if isinstance(value, ShardedTensor) else value.shape)


def _dtype(value: Tensor | ShardedTensor) -> torch.dtype:
    if isinstance(value, ShardedTensor):  # asked itself, it warns
        return value.metadata().tensor_properties.dtype
    return value.dtype


def _local(value: Any) -> Iterator[tuple[Tensor, list[int]]]:
    """What of a state dict's entry this process is to write, and where it begins."""
    if isinstance(value, ShardedTensor):
        for shard in value.local_shards():
            yield shard.tensor.detach(), list(shard.metadata.shard_offsets)
    elif dist.get_rank() == 0:  # all have the same
        yield value.detach(), [0] * value.dim()


def _row_state(
    state: Mapping[str, Any], num_rows: int, dim: int
) -> tuple[str | None, Any, str | None]:
    """A static table's optimizer, its state, and what is left out, in words."""
    if not state:
        return None, None, None
    sums = [value for key, value in state.items() if key.endswith(".momentum1")]
    kinds = {(num_rows,): "rowwise_adagrad", (num_rows, dim): "adagrad"}
    kind = kinds.get(_size(sums[0])) if len(state) == len(sums) == 1 else None
    if kind is None:
        keys = sorted(key.rpartition(".")[2] for key in state)
        return None, None, f"not kept: {', '.join(keys)}; only Adagrad's sums can be"
    return kind, sums[0], None


def _dynamic_parts(path: str, table: DynamicTable, with_state: bool) -> TableParts:
    row_optimizer = table.optimizer
    kinds = {"rowwise_adagrad", "adagrad"} if with_state else set()
    name = row_optimizer.name if row_optimizer and row_optimizer.name in kinds else None
    dim = table.config.embedding_dim
    dtypes = {"ids": torch.int64, "seen": torch.int32, "weight": torch.float32}
    shapes: dict[str, tuple[int, ...]] = {"ids": (), "seen": (2,), "weight": (dim,)}
    if name is not None:
        dtypes["optimizer"] = torch.float32
        shapes["optimizer"] = () if name == "rowwise_adagrad" else (dim,)

    is_ours = table.is_shared or dist.get_rank() == 0  # else all have the same

    def parts() -> Iterator[Part]:
        first = 0
        for rows in table.live_chunks() if is_ours else ():
            if len(rows.ids):
                yield from (Part(field, getattr(rows, field), first) for field in dtypes)
            first += len(rows.ids)

    return TableParts(
        parameter=f"{path}.weight",
        num_rows=table.report().rows if is_ours else 0,
        dim=dim,
        is_dynamic=True,
        optimizer=name,
        left_out=None,
        dtypes=dtypes,
        row_shapes=shapes,
        parts=parts,
    )
