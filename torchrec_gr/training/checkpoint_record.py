"""What a checkpoint says of itself: its values, what it builds on, its files and checksums."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchrec_gr.training.checksum import Checksum
from torchrec_gr.training.sealed_json import read_sealed, write_sealed

RECORD = "record.json"
_VERSION = 2


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written or read."""


@dataclasses.dataclass(frozen=True)
class Record:
    """Written last, beside a checkpoint's files.

    Args:
        values: the plain values that were saved with the checkpoint.
        files: the checksum of every file but the record, by name.
        tables: the dynamic tables whose rows it holds.
        base: the name and the record's checksum of the checkpoint that this one adds to; None: it
            is whole by itself.
    """

    values: Mapping[str, Any]
    files: Mapping[str, Checksum]
    tables: Sequence[str] = ()
    base: tuple[str, str] | None = None

    def write(self, checkpoint: Path) -> str:
        """Puts it on disk and gives its checksum, which stands in its first line."""
        return write_sealed(checkpoint / RECORD, {"version": _VERSION, **dataclasses.asdict(self)})


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A folder and its record, which was found as it was written."""

    path: Path
    record: Record
    checksum: str

    def link(self) -> tuple[str, str]:
        """What a checkpoint that builds on this one keeps as its `base`."""
        return self.path.name, self.checksum


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint's record, and no other file.

    Raises:
        CheckpointError: it is not there, was cut or altered, or is of another version.
    """
    file = path / RECORD
    try:
        fields, checksum = read_sealed(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {file}: {error}. {_put_back([path])}") from error
    if fields["version"] != _VERSION:
        raise CheckpointError(
            f"{file} is of version {fields['version']}, expected {_VERSION}: load it with the "
            "version that wrote it"
        )
    files = {name: Checksum(**checksum) for name, checksum in fields["files"].items()}
    base = None if fields["base"] is None else (fields["base"][0], fields["base"][1])
    return Checkpoint(path, Record(fields["values"], files, fields["tables"], base), checksum)


def read_chain(path: Path) -> list[Checkpoint]:
    """A checkpoint after those that it builds on, the whole one first.

    Raises:
        CheckpointError: a record cannot be read, or a checkpoint that another one builds on is
            missing or has been replaced.
    """
    chain = [read_checkpoint(path)]
    while (base := chain[0].record.base) is not None:
        name, checksum = base
        needs = f"checkpoint {chain[0].path} builds on {path.parent / name}, which"
        dependent = [checkpoint.path for checkpoint in chain]
        if not (path.parent / name).is_dir():
            raise CheckpointError(f"{needs} is missing. {_put_back(dependent)}")
        found = read_checkpoint(path.parent / name)
        if found.checksum != checksum:
            raise CheckpointError(f"{needs} has been replaced since. {_put_back(dependent)}")
        chain.insert(0, found)
    return chain


def find_damage(
    chain: Sequence[Checkpoint], part: int = 0, num_parts: int = 1
) -> list[tuple[Path, str]]:
    """The files of a chain of checkpoints that are not as they were written, and how.

    Args:
        part, num_parts: looks at every `num_parts`-th file alone, from the `part`-th on.
    """
    files: list[tuple[Path, Checksum | None]] = []
    for checkpoint in chain:
        listed = checkpoint.record.files
        found = {file.name for file in checkpoint.path.iterdir()} - {RECORD}
        files += [
            (checkpoint.path / name, listed.get(name)) for name in sorted(found | set(listed))
        ]
    files.sort(key=lambda file: -file[1].num_bytes if file[1] else 0)  # as much for each part
    looked_at = [(file, _damage(file, expected)) for file, expected in files[part::num_parts]]
    return [(file, damage) for file, damage in looked_at if damage is not None]


def refuse_damage(chain: Sequence[Checkpoint], damage: Sequence[tuple[Path, str]]) -> None:
    """Raises CheckpointError if a chain has any damage."""
    if not damage:
        return
    paths = [checkpoint.path for checkpoint in chain]
    first = min(paths.index(file.parent) for file, _ in damage)
    raise CheckpointError(
        f"checkpoint {paths[-1]} is damaged: {'; '.join(f'{file} {how}' for file, how in damage)}. "
        f"Nothing was loaded. {_put_back(paths[first:])}"
    )


def _damage(file: Path, expected: Checksum | None) -> str | None:
    return "is none of its files" if expected is None else expected.difference(file)


def _put_back(checkpoints: Sequence[Path]) -> str:
    names = ", ".join(str(path) for path in checkpoints)
    return f"Put back a good copy, or remove {names} to go on from an earlier checkpoint"
