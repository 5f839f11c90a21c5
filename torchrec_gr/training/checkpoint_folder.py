"""A run's folder of checkpoints: each is in it whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from torchrec_gr.training.checkpoint_record import (
    Checkpoint,
    CheckpointError,
    Record,
    read_chain,
)

_PARTIAL, _REPLACED, _REMOVED = ".partial_", ".replaced_", ".removed_"
_STEP = re.compile(rf"({re.escape(_REPLACED)})?step_(\d+)")


def checkpoint_path(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return run_dir / f"step_{step}"


def _partial_path(checkpoint: Path) -> Path:
    """Where a checkpoint is written before it is whole."""
    return checkpoint.parent / f"{_PARTIAL}{checkpoint.name}"


def checkpoints(run_dir: Path) -> list[Path]:
    """The whole checkpoints of a folder, oldest first.

    One that was to be replaced counts until its successor bears its name.
    """
    paths = sorted(run_dir.iterdir(), reverse=True) if run_dir.is_dir() else []
    steps: dict[int, Path] = {}
    for path in paths:  # step_7 comes before .replaced_step_7
        if match := _STEP.fullmatch(path.name):
            steps.setdefault(int(match.group(2)), path)
    return [steps[step] for step in sorted(steps)]


def latest_checkpoint(run_dir: Path) -> Path | None:
    """The newest whole checkpoint in a folder; None where there is none."""
    found = checkpoints(run_dir)
    return found[-1] if found else None


def make_partial(checkpoint: Path) -> Path:
    """An empty folder to write a checkpoint in; what killed runs left beside it is cleared away."""
    run_dir = checkpoint.parent
    run_dir.mkdir(parents=True, exist_ok=True)
    for path in run_dir.glob(f"{_REPLACED}*"):
        successor = run_dir / path.name.removeprefix(_REPLACED)
        if not successor.exists():
            os.replace(path, successor)
    for path in run_dir.glob(".*_step_*"):
        if path.name.startswith((_PARTIAL, _REPLACED, _REMOVED)):
            shutil.rmtree(path)
    partial = _partial_path(checkpoint)
    partial.mkdir()
    return partial


def discard_partial(checkpoint: Path) -> None:
    """Removes what was written of a checkpoint that cannot be finished."""
    shutil.rmtree(_partial_path(checkpoint), ignore_errors=True)


def publish(checkpoint: Path, record: Record) -> Checkpoint:
    """Gives what was written its record and its name: it is there whole, or not at all."""
    partial = _partial_path(checkpoint)
    checksum = record.write(partial)
    put_in_place(partial, checkpoint, checkpoint.parent / f"{_REPLACED}{checkpoint.name}")
    return Checkpoint(checkpoint, record, checksum)


def put_in_place(partial: Path, final: Path, replaced: Path) -> None:
    """Gives a folder whose files are on disk its name.

    Args:
        replaced: what an earlier folder of that name is called until it is removed.
    """
    sync(partial)
    if final.exists():
        os.replace(final, replaced)
    os.replace(partial, final)
    sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def prune(run_dir: Path, keep: int) -> None:
    """Removes all checkpoints but the newest `keep` and those that they build on.

    Where one of these cannot be read, what it builds on is not known, and nothing is removed.
    """
    found = checkpoints(run_dir)
    try:
        kept = {part.path for path in found[-keep:] for part in read_chain(path)}
    except CheckpointError:
        return
    with contextlib.suppress(OSError):  # the next save tries again
        for path in reversed(found):  # what builds on a checkpoint goes before it
            if path not in kept:
                _remove(path)


def _remove(checkpoint: Path) -> None:
    """Takes a checkpoint's name away first, so that it never bears it in part."""
    nameless = checkpoint.parent / f"{_REMOVED}{checkpoint.name}"
    os.replace(checkpoint, nameless)
    shutil.rmtree(nameless, ignore_errors=True)


def sync(path: Path) -> None:
    """Has a file, or a folder's list of files, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
