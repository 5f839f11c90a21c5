"""At every moment of a save, what can be loaded from its place is whole: the old or the new."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from tests.pretrained.artefact.artefact_toy import CARD, save
from tests.training.disk_events import before_each
from tests.training.toy import toy_model
from torchrec_gr.pretrained import PretrainedError, has_artefact, load_pretrained
from torchrec_gr.pretrained.artefact import shard_files


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    with mock.patch.object(shard_files, "LARGEST_FILE", 1000):
        yield


def _save(folder: Path, number: int) -> None:
    save(folder / "a", toy_model("requests", seed=number), config={"number": number})


def _found(folder: Path) -> int | None:
    """The number of the artefact that is there, which must be sound; None: there is none."""
    if not has_artefact(folder / "a"):
        return None
    return int(load_pretrained(folder / "a").config["number"])


def _fail_at(number: int, events: Iterator[int], event: str) -> None:
    if next(events) == number:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("before", [None, 1])
def test_a_save_that_is_killed_at_any_moment(tmp_path: Path, before: int | None) -> None:
    folder, moments, number = tmp_path / "run", tmp_path / "moments", itertools.count()
    folder.mkdir()
    if before:
        _save(folder, before)
    with before_each(lambda event: shutil.copytree(folder, moments / f"{next(number):03d}")):
        _save(folder, 2)
    found = [_found(moment) for moment in sorted(moments.iterdir())]
    assert len(found) > 15
    assert set(found) == {before, 2}
    assert found == sorted(found, key=lambda of: of == 2)  # never back to the old one
    for moment in list(moments.iterdir())[::6]:
        _save(moment, 3)
        assert _found(moment) == 3
        assert [path.name for path in moment.iterdir()] == ["a"]


@pytest.mark.parametrize("before", [None, 1])
def test_a_save_that_fails_at_any_moment(tmp_path: Path, before: int | None) -> None:
    for fail_at in itertools.count():
        folder, events = tmp_path / str(fail_at), itertools.count()
        folder.mkdir()
        if before:
            _save(folder, before)
        error = None
        with before_each(partial(_fail_at, fail_at, events)):
            try:
                _save(folder, 2)
            except PretrainedError as caught:
                error = str(caught)
        assert error is None or "No space left on device" in error
        assert _found(folder) in ((2,) if error is None else (before, 2))
        assert {path.name for path in folder.iterdir()} <= {"a", ".partial_a", ".replaced_a"}
        if next(events) <= fail_at:
            break
        _save(folder, 3)
        assert _found(folder) == 3
        assert [path.name for path in folder.iterdir()] == ["a"]
    assert fail_at > 15


def test_what_bears_the_name_is_on_disk_before(tmp_path: Path) -> None:
    events: list[str] = []
    with before_each(events.append):
        _save(tmp_path, 1)
    renamed = events.index(f"os.rename {tmp_path / '.partial_a'}")
    partial_folder = tmp_path / ".partial_a"
    files = [partial_folder / path.name for path in (tmp_path / "a").iterdir()]
    assert len(files) > 7
    for path in (*files, partial_folder):
        assert f"fsync {path}" in events[:renamed]
    assert f"fsync {tmp_path}" in events[renamed:]
    assert CARD.trained_on in (tmp_path / "a" / "README.md").read_text()


def test_a_save_that_fails_after_one_that_was_killed_in_between(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    (tmp_path / "a").rename(tmp_path / ".replaced_a")
    full = mock.patch.object(shard_files, "save_file", side_effect=OSError("no space"))
    with full, pytest.raises(PretrainedError, match="no space"):
        _save(tmp_path, 2)
    assert _found(tmp_path) == 1
