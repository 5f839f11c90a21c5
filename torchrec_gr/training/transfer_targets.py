"""Where a model's weights lie in this process, whatever way they are sharded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.types import ShardedModule

from torchrec_gr.embeddings.dynamic_table import DynamicTable, dynamic_tables
from torchrec_gr.training.tables import table_of

Shard = tuple[slice, Tensor]
"""Columns of a table, and the memory where this process has them: [rows, columns]."""


class HeldRows(NamedTuple):
    """Rows of a table that follow each other and that this process holds, or some columns of them.

    Args:
        first: of the rows.
        num_rows: from there on.
        weights: the shards of these rows.
    """

    first: int
    num_rows: int
    weights: list[Shard]


@dataclasses.dataclass(frozen=True)
class StaticTable:
    """A table of TorchRec's.

    Args:
        name: of its weight in the state dict.
        shape: rows and width, of the whole table.
        held: what this process has of it.
    """

    name: str
    shape: tuple[int, int]
    held: Sequence[HeldRows]


@dataclasses.dataclass(frozen=True)
class Targets:
    """All that a model holds, by name in its state dict.

    Args:
        tables: static and dynamic, by the name of the weight.
        dense: what is no table: replicated parameters and buffers.
    """

    tables: Mapping[str, StaticTable | DynamicTable]
    dense: Mapping[str, Tensor]

    def names(self) -> list[str]:
        """Of all."""
        return [*self.tables, *self.dense]


def is_sharded(model: nn.Module) -> bool:
    """Whether processes share the model's tables."""
    return any(isinstance(module, ShardedModule) for module in model.modules())


def targets_of(model: nn.Module) -> Targets:
    """Finds a model's weights; where the model is sharded, all processes must ask together."""
    dynamic = dynamic_tables(model)
    paths = tuple(f"{path}." for path in dynamic)
    tensors = {n: t for n, t in _tensors(model).items() if not n.startswith(paths)}
    static = {n: static_table(n, t) for n, t in tensors.items() if _is_table(n, t)}
    return Targets(
        tables={**static, **{f"{path}.weight": table for path, table in dynamic.items()}},
        dense={n: t for n, t in tensors.items() if n not in static},
    )


def static_table(name: str, tensor: Tensor) -> StaticTable:
    """Where the rows of an entry of a state dict lie, [rows, D] or [rows] (which counts as D = 1).

    The shards are views of the entry's memory.
    """
    shape = whole_shape(tensor)
    size = (shape[0], shape[1] if len(shape) > 1 else 1)
    if not isinstance(tensor, ShardedTensor):
        return StaticTable(name, size, [HeldRows(0, size[0], [(slice(0, size[1]), _rows(tensor))])])
    held: dict[tuple[int, int], list[Shard]] = {}
    for shard in tensor.local_shards():
        local = _rows(shard.tensor)
        first, first_column = [*shard.metadata.shard_offsets, 0][:2]
        columns = slice(first_column, first_column + local.shape[1])
        held.setdefault((first, len(local)), []).append((columns, local))
    return StaticTable(name, size, [HeldRows(*rows, shards) for rows, shards in held.items()])


def whole_shape(tensor: Tensor) -> tuple[int, ...]:
    """Of an entry of a state dict, over all processes."""
    return tuple(tensor.metadata().size if isinstance(tensor, ShardedTensor) else tensor.shape)


def _rows(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.unsqueeze(1) if tensor.dim() == 1 else tensor


def _is_table(name: str, tensor: Tensor) -> bool:
    return isinstance(tensor, ShardedTensor) or (table_of(name) is not None and tensor.dim() == 2)


def _tensors(model: nn.Module) -> Mapping[str, Tensor]:
    """The state dict; where nothing is sharded, without dynamic tables' rows, which it copies."""
    if is_sharded(model):
        return model.state_dict()
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for name, tensor in {**module._parameters, **module._buffers}.items():
            if tensor is not None and name not in module._non_persistent_buffers_set:
                found[prefix + name] = tensor.detach()
    return found
