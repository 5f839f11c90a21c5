"""What is saved by one, two and four processes and loaded by each of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as multiprocessing
from torch import Tensor

from tests.training.dynamic_toy import contents, dynamic_model, dynamic_trainer
from torchrec_gr.embeddings.dynamic_table import dynamic_tables
from torchrec_gr.embeddings.sharded_rows import sharded_rows
from torchrec_gr.training.checkpoint import (
    CheckpointError,
    latest_checkpoint,
    load_checkpoint,
    read_record,
    save_checkpoint,
)
from torchrec_gr.training.checkpoint_reader import CheckpointReader
from torchrec_gr.training.checkpoint_record import Checksum, read_chain
from torchrec_gr.training.process_group import process_group

WORLD_SIZES = (4, 2, 1)
"""The largest first: a process asks the first group it shards in whether to check collectives."""
Results = dict[tuple[Any, ...], Any]


def run_all(work_dir: Path) -> Results:
    """Starts the processes once, and gives the results by what was done."""
    multiprocessing.spawn(_run_one, args=(work_dir,), nprocs=max(WORLD_SIZES))
    return torch.load(work_dir / "results.pt", weights_only=False)


def _run_one(rank: int, work_dir: Path) -> None:
    torch.set_num_threads(1)
    results: Results = {}
    for size in WORLD_SIZES:
        with _processes(size, rank, work_dir / f"train_{size}") as takes_part:
            if takes_part:
                results["uneven", size] = _save_uneven(work_dir / f"uneven_{size}")
                results["saved", size] = _train_and_save(work_dir / str(size))
    for size in WORLD_SIZES:
        with _processes(size, rank, work_dir / f"load_{size}") as takes_part:
            for by in WORLD_SIZES if takes_part else ():
                results["errors", by, size] = _fail(work_dir / str(by), size)
                results["full", by, size] = _load(work_dir / str(by) / "full")
                results["chain", by, size] = _go_on(work_dir / str(by), size)
    if rank == 0:
        torch.save(results, work_dir / "results.pt")


@contextmanager
def _processes(size: int, rank: int, store: Path) -> Iterator[bool]:
    """A process group of the first `size` processes; says whether this is one of them."""
    if rank >= size:
        yield False
        return
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size))
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(store), size), rank=rank, world_size=size
    )
    with process_group("cpu"):
        yield True
    dist.destroy_process_group()


def _save_uneven(folder: Path) -> list[Tensor]:
    """Rows that only the first process has, only the second, and so on; as they are read."""
    state = {}
    none = torch.empty(0, 2)
    for owner in range(dist.get_world_size()):
        parts = [torch.full((3, 2), float(owner))] if owner == dist.get_rank() else [none]
        state[f"of {owner}"] = sharded_rows(parts, none)
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder))
    reader = CheckpointReader(folder)
    return [reader.rows(name, 0, 3) for name in state]


def _train_and_save(run_dir: Path) -> dict[str, Any]:
    """Leaves a full checkpoint and two increments in `chain`, the same in full in `full`."""
    losses: list[float] = []
    trainer = dynamic_trainer(
        run_dir / "chain",
        checkpoint_steps=2,
        full_checkpoint_every=3,
        on_step=lambda step, loss, rate: losses.append(loss),
    )
    trainer.train_epoch()
    record = read_record(run_dir / "chain" / "step_6")
    save_checkpoint(run_dir / "full", 6, trainer.model, trainer.optimizer, record)
    saved = contents(trainer.model, trainer.optimizer)
    reports: list[Any] = [None] * dist.get_world_size()
    tables = dynamic_tables(trainer.model)
    dist.all_gather_object(reports, {name: table.report() for name, table in tables.items()})
    _copy(run_dir / "chain", run_dir / "kept")
    trainer.train_epoch()
    return {"contents": saved, "losses": losses[6:], "reports": reports}


def _load(run_dir: Path) -> dict[str, Any]:
    model, optimizer = dynamic_model(seed=1)
    checkpoint = latest_checkpoint(run_dir)
    assert checkpoint is not None
    load_checkpoint(checkpoint, model, optimizer)
    return {"contents": contents(model, optimizer)}


def _go_on(run_dir: Path, size: int) -> dict[str, Any]:
    """Takes the increments up and adds one; what they hold then, read again."""
    losses: list[float] = []
    own_dir = run_dir / f"by_{size}"
    _copy(run_dir / "kept", own_dir)
    trainer = dynamic_trainer(
        own_dir,
        seed=1,
        full_checkpoint_every=9,
        on_step=lambda step, loss, rate: losses.append(loss),
    )
    assert trainer.resume()
    loaded = contents(trainer.model, trainer.optimizer)
    trainer.train_epoch()
    at_the_end = contents(trainer.model, trainer.optimizer)
    return {
        "contents": loaded,
        "losses": losses,
        "at the end": at_the_end,
        "read again": _load(own_dir)["contents"],
        "chain": [checkpoint.path.name for checkpoint in read_chain(own_dir / "step_12")],
    }


def _fail(run_dir: Path, size: int) -> list[list[str]]:
    """What each process says of a file that is cut, and of a file that one cannot read back."""
    own_dir = run_dir / f"cut_by_{size}"
    _copy(run_dir / "kept", own_dir)
    model, optimizer = dynamic_model(seed=1)

    def save() -> object:
        gone = mock.patch.object(Checksum, "of", side_effect=OSError("gone"))
        with gone if dist.get_rank() == size - 1 else nullcontext():
            return save_checkpoint(own_dir, 7, model, optimizer, {})

    def load() -> object:
        return load_checkpoint(own_dir / "step_6", model, optimizer)

    errors = [_error(save)]
    if dist.get_rank() == 0:
        [*_, file] = sorted((own_dir / "step_2").glob("*.distcp"))
        file.write_bytes(file.read_bytes()[:-1])
    dist.barrier()
    errors.append(_error(load))
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, errors)
    return gathered


def _error(action: Callable[[], object]) -> str:
    try:
        action()
    except CheckpointError as error:
        return str(error)
    return "none"


def _copy(source: Path, target: Path) -> None:
    if dist.get_rank() == 0:
        shutil.copytree(source, target)
    dist.barrier()
