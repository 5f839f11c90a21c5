"""Checkpoints of a run: written whole or not at all, read without running what a file brings."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torchrec.distributed.model_parallel import DistributedModelParallel

from torchrec_gr.training.optimizer import ScheduledOptimizer

_RECORD = "record.json"
_MODEL = "model."
_RANDOM = "random."
_INDEX_NAMES = {
    "torch.distributed.checkpoint.metadata": (
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorStorageMetadata",
        "TensorProperties",
        "ChunkStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size",),
    "pathlib": ("PosixPath",),
}
"""What an index that torch.distributed.checkpoint wrote may name, beside the dtypes."""
_STEP = re.compile(r"step_(\d+)")


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written or read."""


def save_checkpoint(
    run_dir: Path,
    step: int,
    model: DistributedModelParallel,
    optimizer: ScheduledOptimizer,
    record: Mapping[str, Any],
    *,
    keep: int = 2,
) -> Path:
    """Writes `run_dir/step_<step>` from all processes and removes all but the newest `keep`.

    It is written beside its place and renamed once it is on disk, so that what bears the name is
    whole, and the checkpoints before it stay good whatever happens.

    Args:
        run_dir: the checkpoints' folder, which all processes see.
        step: how many steps were trained.
        record: plain values to keep with it, as JSON.
        keep: how many checkpoints stay in the folder.

    Raises:
        CheckpointError: it could not be written; earlier ones are as they were.
    """
    final = run_dir / f"step_{step}"
    partial = run_dir / f".partial_step_{step}"
    state = {**_state(model, optimizer), **_random_state()}
    _on_first(lambda: _make_empty(partial), f"cannot make {partial}")
    try:
        dcp.save(state, storage_writer=dcp.FileSystemWriter(partial, sync_files=True))
    except CheckpointException as error:
        causes = "; ".join(f"process {rank}: {cause[0]}" for rank, cause in error.failures.items())
        _on_first(lambda: shutil.rmtree(partial, ignore_errors=True), f"cannot remove {partial}")
        raise CheckpointError(
            f"cannot write checkpoint {final}: {causes}. Earlier checkpoints are untouched; make "
            "room and start the run again to go on from the newest"
        ) from error
    _on_first(lambda: _publish(partial, final, record, keep), f"cannot write checkpoint {final}")
    return final


def latest_checkpoint(run_dir: Path) -> Path | None:
    """The newest whole checkpoint in a folder; None where there is none."""
    found = _checkpoints(run_dir)
    return found[-1] if found else None


def read_record(checkpoint: Path) -> dict[str, Any]:
    """The plain values that were saved with a checkpoint.

    Raises:
        CheckpointError: they cannot be read.
    """
    try:
        record = json.loads((checkpoint / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {checkpoint / _RECORD}: {error}") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{checkpoint / _RECORD} holds no record: it was written by another")
    return record


def load_checkpoint(
    checkpoint: Path, model: DistributedModelParallel, optimizer: ScheduledOptimizer
) -> dict[str, Any]:
    """Loads a checkpoint in place, on any number of processes, and gives its record back.

    The random state is restored on each process that had one when it was saved.

    Raises:
        CheckpointError: it cannot be read, or holds other entries or shapes than the model and the
            optimizer; all are named.
    """
    record = read_record(checkpoint)
    reader = _Reader(checkpoint)
    saved = reader.tensors()
    state = _state(model, optimizer)
    _require_same(checkpoint, state, saved)
    random = {key: value for key, value in _random_state().items() if key in saved}
    _load({**state, **random}, reader)
    _set_random_state(random)
    return record


def read_weights(run_dir: Path) -> dict[str, Tensor]:
    """All weights of a run's newest checkpoint, whole tensors on the CPU, by name in the model.

    Needs no model and no process group.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    checkpoint = latest_checkpoint(run_dir)
    if checkpoint is None:
        raise CheckpointError(
            f"{run_dir} holds no checkpoint: expected a folder step_<number> in it"
        )
    reader = _Reader(checkpoint)
    weights = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in reader.tensors().items()
        if key.startswith(_MODEL)
    }
    _load(weights, reader, no_dist=True)
    return {key[len(_MODEL) :]: weight for key, weight in weights.items()}


def _state(model: DistributedModelParallel, optimizer: ScheduledOptimizer) -> dict[str, Tensor]:
    """Every tensor to keep, by one flat name; they share the memory of what is trained."""
    state = {f"{_MODEL}{name}": value for name, value in model.state_dict().items()}
    for name, values in optimizer.state_dict()["state"].items():
        state.update({f"optimizer.{name}.{key}": value for key, value in values.items()})
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{name} is a {type(value).__name__}: a checkpoint holds tensors")
    return state


def _random_state() -> dict[str, Tensor]:
    """This process's generators' states, by names of its own."""
    rank = dist.get_rank()
    state = {f"{_RANDOM}{rank}.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state[f"{_RANDOM}{rank}.cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: Mapping[str, Tensor]) -> None:
    for key, value in state.items():
        if key.endswith(".cpu"):
            torch.set_rng_state(value)
        else:
            torch.cuda.set_rng_state(value)


def _require_same(
    checkpoint: Path, state: Mapping[str, Tensor], saved: Mapping[str, TensorStorageMetadata]
) -> None:
    """Checks names and shapes over all processes, each of which may hold some of the entries."""
    parts: list[dict[str, tuple[int, ...]]] = [{}] * dist.get_world_size()
    dist.all_gather_object(parts, {name: tuple(value.size()) for name, value in state.items()})
    expected = {name: shape for part in parts for name, shape in part.items()}
    found = {
        name: tuple(entry.size) for name, entry in saved.items() if not name.startswith(_RANDOM)
    }
    faults = [f"it lacks {name}" for name in sorted(expected.keys() - found.keys())]
    faults += [
        f"it holds {name}, which is unknown" for name in sorted(found.keys() - expected.keys())
    ]
    faults += [
        f"{name} is of shape {found[name]}, expected {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if faults:
        raise CheckpointError(
            f"checkpoint {checkpoint} is not of this model and optimizer: {'; '.join(faults)}. "
            "Build both as they were when it was written, or start in another folder"
        )


def _load(state: dict[str, Tensor], reader: _Reader, *, no_dist: bool = False) -> None:
    try:
        dcp.load(state, storage_reader=reader, no_dist=no_dist)
    except (
        CheckpointException,
        OSError,
        ValueError,
        RuntimeError,
        pickle.UnpicklingError,
    ) as error:
        raise CheckpointError(f"cannot read checkpoint {reader.path}: {error}") from error


class _Reader(dcp.FileSystemReader):
    """Reads a checkpoint's index by an allow-list and nothing from it but tensors.

    The index is a pickle, which could name any function to call; tensors are read by
    `torch.load(weights_only=True)`.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index.

        Raises:
            CheckpointError: it cannot be read, names what no index needs, or lists other things
                than tensors.
        """
        path = Path(self.path) / ".metadata"
        try:
            with path.open("rb") as file:
                metadata = _IndexUnpickler(file).load()
        except (OSError, EOFError, pickle.UnpicklingError, AttributeError, TypeError) as error:
            raise CheckpointError(f"cannot read the index {path}: {error}") from error
        if not isinstance(metadata, Metadata):
            raise CheckpointError(f"{path} is not the index of a checkpoint")
        others = [
            name
            for name, entry in metadata.state_dict_metadata.items()
            if not isinstance(entry, TensorStorageMetadata)
        ]
        if others:
            raise CheckpointError(f"{path} lists {others}, which are not tensors: refused")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata

    def tensors(self) -> dict[str, TensorStorageMetadata]:
        """What the index lists, by name."""
        return self.read_metadata().state_dict_metadata  # type: ignore[return-value]


class _IndexUnpickler(pickle.Unpickler):
    """Unpickles what torch.distributed.checkpoint writes into an index, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of that name, if an index may name it."""
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or name in _INDEX_NAMES.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"it names {module}.{name}, which no checkpoint's index needs: it was damaged or made "
            "to run code, do not use it"
        )


def _checkpoints(run_dir: Path) -> list[Path]:
    """The whole checkpoints of a folder, oldest first."""
    steps = {
        int(match.group(1)): path
        for path in (run_dir.iterdir() if run_dir.is_dir() else ())
        if (match := _STEP.fullmatch(path.name))
    }
    return [steps[step] for step in sorted(steps)]


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _publish(partial: Path, final: Path, record: Mapping[str, Any], keep: int) -> None:
    with (partial / _RECORD).open("w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(partial)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    _sync_folder(final.parent)
    for old in _checkpoints(final.parent)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _on_first(action: Callable[[], None], failure: str) -> None:
    """Runs an action on the first process; all processes wait, and raise if it failed."""
    message: list[str | None] = [None]
    if dist.get_rank() == 0:
        try:
            action()
        except OSError as error:
            message = [f"{failure}: {error}"]
    dist.broadcast_object_list(message, src=0)
    if message[0] is not None:
        raise CheckpointError(message[0])
