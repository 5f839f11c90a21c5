"""Files that were found as they were written, for as long as nobody touches them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from torchrec_gr.pretrained.artefact.record import PretrainedError

Stamp = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class SoundFiles:
    """What an artefact's files looked like when they were checked: it is read long after.

    Args:
        folder: of the artefact.
        stamps: by file name.
    """

    folder: Path
    stamps: Mapping[str, Stamp] = dataclasses.field(repr=False)

    @classmethod
    def of(cls, folder: Path, names: Iterable[str]) -> SoundFiles:
        """The files as they are now; those that are missing are left out."""
        paths = {name: folder / name for name in names}
        return cls(folder, {name: _stamp(path) for name, path in paths.items() if path.exists()})

    def path(self, name: str) -> Path:
        """Where a file is.

        Raises:
            OSError: it is gone.
            PretrainedError: it has been changed or replaced.
        """
        path = self.folder / name
        if _stamp(path) != self.stamps.get(name):
            raise PretrainedError(
                f"{path} was changed after the artefact was loaded: load it again"
            )
        return path


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
