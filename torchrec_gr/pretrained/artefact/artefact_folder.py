"""Where an artefact stands, and stood a moment ago: it is there whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from torchrec_gr.pretrained.artefact.record import README, RECORD, SCHEMA, PretrainedError

ARTEFACT = "artefact"
"""The name of the artefact's folder in a run's folder."""

_PARTIAL, _REPLACED = ".partial_", ".replaced_"
_OWN_FILE = re.compile(rf"{RECORD}|{SCHEMA}|{README}|vocabulary-\d+\.parquet|.+\.safetensors")


def find_artefact(folder: Path) -> Path:
    """The artefact that a folder is, or that a run's folder holds.

    One that was to be replaced counts until its successor bears its name.

    Raises:
        PretrainedError: there is none.
    """
    places = [folder, replaced_path(folder)]
    places += [folder / ARTEFACT, replaced_path(folder / ARTEFACT)]
    for place in places:
        if (place / RECORD).is_file():
            return place
    expected = (
        f"expected a folder that save_pretrained wrote, which has a file {RECORD}, or a run's "
        f"folder with such a folder {ARTEFACT!r} in it"
    )
    if not folder.exists():
        raise PretrainedError(f"there is no {folder}: {expected}")
    if not folder.is_dir():
        raise PretrainedError(f"{folder} is a file: {expected}")
    found = sorted(path.name for path in folder.iterdir())
    held = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
    raise PretrainedError(f"{folder} is no artefact: {expected}; this one has {held or 'nothing'}")


def has_artefact(folder: str | Path) -> bool:
    """Whether a folder is an artefact, sound or not, or a run's folder with one in it."""
    try:
        find_artefact(Path(folder))
    except PretrainedError:
        return False
    return True


def replaced_path(artefact: Path) -> Path:
    """Where an artefact stands while its successor takes its place."""
    return artefact.parent / f"{_REPLACED}{artefact.name}"


def make_partial(artefact: Path) -> Path:
    """An empty folder to write an artefact in; what killed runs left beside it is cleared away.

    Raises:
        PretrainedError: the artefact's place is taken by something else.
    """
    _require_free(artefact)
    replaced = replaced_path(artefact)
    if replaced.exists():
        if artefact.exists():
            shutil.rmtree(replaced)
        else:
            os.replace(replaced, artefact)
    partial = artefact.parent / f"{_PARTIAL}{artefact.name}"
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    return partial


def discard_partial(artefact: Path) -> None:
    """Removes what was written of an artefact that cannot be finished; an earlier one stays."""
    shutil.rmtree(artefact.parent / f"{_PARTIAL}{artefact.name}", ignore_errors=True)
    if not artefact.exists() and replaced_path(artefact).exists():
        os.replace(replaced_path(artefact), artefact)


def _require_free(artefact: Path) -> None:
    if not artefact.exists():
        return
    others = [f"{artefact} itself, a file"]
    if artefact.is_dir():
        others = [p.name for p in sorted(artefact.iterdir()) if not _OWN_FILE.fullmatch(p.name)]
        if not others and (not any(artefact.iterdir()) or (artefact / RECORD).is_file()):
            return
    raise PretrainedError(
        f"cannot write an artefact to {artefact}, which would be replaced as a whole: it holds "
        f"{', '.join(others[:8]) or f'files without a {RECORD}'}. Give a folder of its own, such "
        f"as {artefact / ARTEFACT}"
    )
