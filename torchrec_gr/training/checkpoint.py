"""Checkpoints of a run: written whole or not at all, read without running what a file brings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torchrec.distributed.model_parallel import DistributedModelParallel

from torchrec_gr.embeddings.dynamic_table import DynamicTable, dynamic_tables
from torchrec_gr.training.checkpoint_entries import (
    MODEL,
    is_of,
    random_entries,
    require_same,
    restore_random,
    trained_entries,
)
from torchrec_gr.training.checkpoint_folder import (
    checkpoint_path,
    discard_partial,
    latest_checkpoint,
    make_partial,
    prune,
    publish,
)
from torchrec_gr.training.checkpoint_reader import CheckpointReader
from torchrec_gr.training.checkpoint_record import (
    Checkpoint,
    CheckpointError,
    Checksum,
    Record,
    find_damage,
    read_chain,
    read_checkpoint,
    refuse_damage,
)
from torchrec_gr.training.checkpoint_tables import (
    changed_rows,
    live_rows,
    load_tables,
    row_entries,
)
from torchrec_gr.training.optimizer import ScheduledOptimizer
from torchrec_gr.training.together import on_all, on_first

__all__ = [
    "CheckpointError",
    "latest_checkpoint",
    "load_checkpoint",
    "read_record",
    "read_weights",
    "save_checkpoint",
]

_LAST: WeakKeyDictionary[DistributedModelParallel, Checkpoint] = WeakKeyDictionary()
"""The checkpoint that a model was last saved in or loaded from: since then its tables count what
is touched."""


def save_checkpoint(
    run_dir: Path,
    step: int,
    model: DistributedModelParallel,
    optimizer: ScheduledOptimizer,
    record: Mapping[str, Any],
    *,
    keep: int = 2,
    full_every: int = 1,
) -> Path:
    """Writes `run_dir/step_<step>` from all processes and removes all but the newest `keep`.

    It is written beside its place and renamed once it is on disk, so that what bears the name is
    whole, and the checkpoints before it stay good whatever happens.

    Of dynamic tables, an incremental checkpoint holds the rows touched since the one that the model
    was last saved in or loaded from, and names it as its base; all else it holds whole.

    Args:
        run_dir: the checkpoints' folder, which all processes see.
        step: how many steps were trained.
        record: plain values to keep with it, as JSON.
        keep: how many checkpoints stay in the folder, beside those that they build on.
        full_every: one of so many checkpoints in turn is written in full; the others build on it.
            A checkpoint whose base is not in the folder is written in full.

    Raises:
        CheckpointError: it could not be written; earlier ones are as they were.
    """
    final = checkpoint_path(run_dir, step)
    failure = f"cannot write checkpoint {final}"
    tables = _tables(model)
    partial = on_first(lambda: make_partial(final), failure)
    try:
        base = _base(model, tables, final, full_every)
        files = _write(_entries(model, optimizer, tables, base), partial, failure)
        link = None if base is None else base.link()
        sealed = Record(record, files, tuple(tables), link)
        saved = on_first(lambda: publish(final, sealed), failure)
    except CheckpointError:
        on_first(lambda: discard_partial(final), failure)
        raise
    _remember(model, tables, saved)
    on_first(lambda: prune(run_dir, keep), f"cannot remove earlier checkpoints from {run_dir}")
    return final


def read_record(checkpoint: Path) -> dict[str, Any]:
    """The plain values that were saved with a checkpoint.

    Raises:
        CheckpointError: they cannot be read, or were altered.
    """
    return dict(read_checkpoint(checkpoint).record.values)


def load_checkpoint(
    checkpoint: Path,
    model: DistributedModelParallel,
    optimizer: ScheduledOptimizer,
    *,
    added: Collection[str] = (),
) -> dict[str, Any]:
    """Loads a checkpoint in place, on any number of processes, and gives its record back.

    Every file of it, and of those that it builds on, is held against its checksum first. The random
    state is restored on each process that had one when it was saved.

    Args:
        checkpoint: as `latest_checkpoint` gives it.
        model, optimizer: loaded in place.
        added: names of modules and parameters that the model gained since, such as a module that
            was attached to it: they keep what they have.

    Raises:
        CheckpointError: it cannot be read, a file was cut, altered, or is missing, or it holds
            other entries or shapes than the model and the optimizer; all are named. The model is
            as it was.
    """
    chain = read_chain(checkpoint)
    rank, num_processes = dist.get_rank(), dist.get_world_size()
    damage = on_all(lambda: find_damage(chain, rank, num_processes), f"cannot read {checkpoint}")
    refuse_damage(chain, [fault for part in damage for fault in part])
    readers = [CheckpointReader(part.path) for part in chain]
    tables = {name: table for name, table in _tables(model).items() if not is_of(name, added)}
    state = {
        name: value
        for name, value in trained_entries(model, optimizer).items()
        if not is_of(name, added)
    }
    for number, reader in enumerate(readers):
        require_same(reader, state, row_entries(tables, is_increment=number > 0))
    random = {key: value for key, value in random_entries().items() if key in readers[-1].tensors()}
    rows = row_entries(tables)
    whole = {name: value for name, value in state.items() if name not in rows}
    _LAST.pop(model, None)
    readers[-1].load({**whole, **random})
    load_tables(tables, readers)
    restore_random(random)
    _remember(model, tables, chain[-1])
    return dict(chain[-1].record.values)


def read_weights(run_dir: Path) -> dict[str, Tensor]:
    """All weights of a run's newest checkpoint, whole tensors on the CPU, by name in the model.

    Of a dynamic table `<...>.<table>`: `<...>.<table>.ids` [n] int64, the ids that have a row, and
    `<...>.<table>.weight` [n, D], their rows. Needs no model and no process group.

    Raises:
        CheckpointError: there is none, or it cannot be read; a file was cut, altered or is missing.
    """
    checkpoint = latest_checkpoint(run_dir)
    if checkpoint is None:
        raise CheckpointError(
            f"{run_dir} holds no checkpoint: expected a folder step_<number> in it"
        )
    chain = read_chain(checkpoint)
    refuse_damage(chain, find_damage(chain))
    readers = [CheckpointReader(part.path) for part in chain]
    tables = chain[-1].record.tables
    weights = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in readers[-1].tensors().items()
        if key.startswith(MODEL) and not key.startswith(tuple(f"{name}." for name in tables))
    }
    readers[-1].load(weights, no_dist=True)
    for name in tables:
        weights[f"{name}.ids"], weights[f"{name}.weight"] = live_rows(name, readers)
    return {key[len(MODEL) :]: weight for key, weight in weights.items()}


def _tables(model: DistributedModelParallel) -> dict[str, DynamicTable]:
    """The dynamic tables of a model, by the start of their entries' names."""
    return {f"{MODEL}{name}": table for name, table in dynamic_tables(model).items()}


def _base(
    model: DistributedModelParallel,
    tables: Mapping[str, DynamicTable],
    final: Path,
    full_every: int,
) -> Checkpoint | None:
    """What a checkpoint can build on; None: it must be full."""
    last = _LAST.get(model)
    if not tables or last is None or last.path.parent != final.parent or last.path == final:
        return None

    def is_sound() -> bool:
        try:
            chain = read_chain(last.path)
        except CheckpointError:
            return False
        is_marked = all(table.is_marked for table in tables.values())
        return is_marked and chain[-1].checksum == last.checksum and len(chain) < full_every

    return last if all(on_all(is_sound, f"cannot read {last.path}")) else None


def _entries(
    model: DistributedModelParallel,
    optimizer: ScheduledOptimizer,
    tables: Mapping[str, DynamicTable],
    base: Checkpoint | None,
) -> dict[str, Tensor]:
    """What a checkpoint holds; of dynamic tables, what changed since `base` if there is one."""
    entries = {**trained_entries(model, optimizer), **random_entries()}
    if base is None:
        return entries
    return entries | changed_rows(tables)


def _write(state: Mapping[str, Tensor], partial: Path, failure: str) -> dict[str, Checksum]:
    """Writes all tensors and gives the checksums of the files."""
    try:
        dcp.save(dict(state), storage_writer=dcp.FileSystemWriter(partial, sync_files=True))
    except CheckpointException as error:
        causes = "; ".join(f"process {rank}: {cause[0]}" for rank, cause in error.failures.items())
        raise CheckpointError(
            f"{failure}: {causes}. Earlier checkpoints are untouched; make room and start the run "
            "again to go on from the newest"
        ) from error
    names = on_first(lambda: sorted(file.name for file in partial.iterdir()), failure)
    mine = names[dist.get_rank() :: dist.get_world_size()]
    parts = on_all(lambda: {name: Checksum.of(partial / name) for name in mine}, failure)
    return {name: checksum for part in parts for name, checksum in part.items()}


def _remember(
    model: DistributedModelParallel, tables: Mapping[str, DynamicTable], checkpoint: Checkpoint
) -> None:
    for table in tables.values():
        table.mark_saved()
    _LAST[model] = checkpoint
