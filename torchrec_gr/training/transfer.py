"""Moves pretrained weights into a model: tables by raw id, whatever way either is sharded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import pyarrow as pa
import torch
from torch import Tensor, nn

from torchrec_gr.embeddings.dynamic_table import DynamicTable
from torchrec_gr.embeddings.multi_hash import hash_slots
from torchrec_gr.embeddings.multi_hash_config import HashSlots
from torchrec_gr.schema.feature_schema import nearest_valid
from torchrec_gr.training.freeze import frozen_names
from torchrec_gr.training.optimizer import ScheduledOptimizer
from torchrec_gr.training.source import Source
from torchrec_gr.training.tables import table_of
from torchrec_gr.training.transfer_dynamic import DynamicTransfer
from torchrec_gr.training.transfer_plan import SAME_ROWS, TablePlan, TransferPlan
from torchrec_gr.training.transfer_processes import Processes
from torchrec_gr.training.transfer_report import ParameterTransfer, Status, TransferReport
from torchrec_gr.training.transfer_state import (
    States,
    dense_state,
    require_dynamic_state,
    table_state,
)
from torchrec_gr.training.transfer_static import StaticTransfer
from torchrec_gr.training.transfer_targets import Targets, is_sharded, targets_of

TableTransfer: TypeAlias = "StaticTransfer | DynamicTransfer"


class DenseTransfer(NamedTuple):
    """A dense tensor of the model, and what goes there.

    Args:
        target: is written to.
        source: the name of the source's.
        states: of the optimizer, each with the source's that goes there.
    """

    target: Tensor
    source: str
    states: list[tuple[Tensor, Tensor]]


def transfer(
    source: Source,
    model: nn.Module,
    plan: TransferPlan,
    *,
    optimizer: ScheduledOptimizer | None = None,
) -> TransferReport:
    """Copies tables by raw id, and dense parameters by name, into a model.

    Source and target may differ in vocabulary, order, size, sharding and number of processes, and
    in whether tables are static or dynamic. The source is streamed: beside the model, memory holds
    a piece of it, the raw ids, and for each row that this process holds the source row it takes.

    Where the model is sharded all processes take part, each with the same source and plan.

    Args:
        source: what to copy, as `load_pretrained` gives it.
        model: not sharded yet, or sharded in any way.
        plan: what goes where.
        optimizer: of the model, where a state is to come along into what is not a dynamic table.

    Returns:
        What became of every parameter.

    Raises:
        ValueError: something asked for cannot be done: an unknown name, ids of another type, an id
            that stands for two rows, no id that both share, widths or shapes that differ, a state
            that is not there; on all processes, and the model is untouched. What cannot be read
            raises the source's own error, on all processes, and may leave rows copied.
    """
    processes = Processes(is_sharded(model))
    targets = targets_of(model)
    states: States = optimizer.state_dict()["state"] if optimizer is not None else {}
    trained = {name for name, _ in model.named_parameters()}
    slots = hash_slots(model)
    processes.together(lambda: _require_same_slots(source, slots, plan))
    jobs = processes.together(lambda: _tables(source, targets, plan, states))
    dense = processes.together(lambda: _dense(source, targets, plan, states, trained))
    pa.default_memory_pool().release_unused()  # what reading raw ids took beside them
    for job in jobs:
        job.match(processes)
    for job in jobs:
        job.copy(processes)
    processes.together(lambda: _copy_dense(source, dense))
    return _report(source, model, targets, plan, jobs)


def _require_same_slots(source: Source, slots: Mapping[str, HashSlots], plan: TransferPlan) -> None:
    """Rows of a multi-hash table go into the same table, slot by slot, or nowhere."""
    for table, entry in plan.tables.items():
        given = source.tables[entry.source].slots if entry.source in source.tables else None
        own = slots.get(table)
        if given != own:
            raise ValueError(
                f"table {table!r} {_described(own)}, but {entry.source!r} of {source.name} "
                f"{_described(given)}: the slots of hash functions fit the same functions alone, "
                "of a table of the same num_embeddings, num_hashes and seed"
            )
        if given is not None and entry.raw_ids is not SAME_ROWS:
            raise ValueError(
                f"table {table!r} {_described(own)}: its rows have no ids, give raw_ids=SAME_ROWS"
            )


def _described(slots: HashSlots | None) -> str:
    return "has rows of its own for ids" if slots is None else f"holds {slots}"


def _tables(
    source: Source, targets: Targets, plan: TransferPlan, states: States
) -> list[TableTransfer]:
    return [_table(source, targets, *entry, states) for entry in plan.tables.items()]


def _table(
    source: Source, targets: Targets, table: str, plan: TablePlan, states: States
) -> TableTransfer:
    names = [name for name in targets.tables if table_of(name) == table]
    if not names:
        tables = {str(table_of(name)) for name in targets.tables}
        raise ValueError(f"the model: {nearest_valid('table', table, tables)}")
    if len(names) > 1:
        raise ValueError(
            f"the model has more than one table {table!r}: {', '.join(names)}; give them names of "
            "their own"
        )
    if plan.source not in source.tables:
        raise ValueError(f"{source.name}: {nearest_valid('table', plan.source, source.tables)}")
    (name,) = names
    target, of = targets.tables[name], source.tables[plan.source]
    if isinstance(target, DynamicTable):
        if plan.optimizer_state:
            require_dynamic_state(name, target, of, plan)
        return DynamicTransfer(name, target, of, plan)
    for held in target.held:
        for _, shard in held.weights:
            _require_values(name, shard)
    state = table_state(target, of, plan, states) if plan.optimizer_state else None
    return StaticTransfer(table, target, of, plan, state)


def _dense(
    source: Source, targets: Targets, plan: TransferPlan, states: States, trained: set[str]
) -> list[DenseTransfer]:
    shapes, found = source.dense_shapes(), []
    for name, of in plan.dense.items():
        if name not in targets.dense:
            raise ValueError(f"the model: {nearest_valid('dense tensor', name, targets.dense)}")
        if of not in shapes:
            raise ValueError(f"{source.name}: {nearest_valid('dense tensor', of, shapes)}")
        target = targets.dense[name]
        _require_values(name, target)
        if tuple(target.shape) != tuple(shapes[of]):
            raise ValueError(
                f"cannot transfer {of} of shape {tuple(shapes[of])} into {name} of shape "
                f"{tuple(target.shape)}: dense tensors must be of one shape, leave it out"
            )
        takes_state = plan.dense_optimizer_state and name in trained
        moved = dense_state(name, source, of, states) if takes_state else []
        found.append(DenseTransfer(target, of, moved))
    return found


def _require_values(name: str, tensor: Tensor) -> None:
    if tensor.is_meta:
        raise ValueError(
            f"cannot transfer into {name}, which is on the meta device and holds nothing yet: "
            "shard the model first, or build it on a real device"
        )


@torch.no_grad()
def _copy_dense(source: Source, dense: list[DenseTransfer]) -> None:
    for part in dense:
        part.target.copy_(source.dense(part.source))
        for own, given in part.states:
            own.copy_(given)


def _report(
    source: Source,
    model: nn.Module,
    targets: Targets,
    plan: TransferPlan,
    jobs: list[TableTransfer],
) -> TransferReport:
    frozen, by_name = frozen_names(model), {job.name: job for job in jobs}
    entries = []
    for name in targets.names():
        status: Status = "left"
        note = ""
        if job := by_name.get(name):
            status, note = "resized" if job.is_resized else "loaded", job.note
        elif name in plan.dense:
            of = plan.dense[name]
            status, note = "loaded", "" if of == name else f"from {of}"
        entries.append(ParameterTransfer(name, status, name in frozen, note))
    taken = {part.source for part in plan.tables.values()} | set(plan.dense.values())
    return TransferReport(
        source=source.name,
        parameters=tuple(entries),
        tables=tuple(job.report() for job in jobs),
        unused=tuple(n for n in (*source.tables, *source.dense_shapes()) if n not in taken),
    )
