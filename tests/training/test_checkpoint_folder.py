"""A run's folder at every moment of a save: what bears a checkpoint's name is whole."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.training.disk_events import before_each
from torchrec_gr.training.checkpoint_folder import (
    checkpoint_path,
    checkpoints,
    make_partial,
    prune,
    publish,
)
from torchrec_gr.training.checkpoint_record import (
    Checkpoint,
    Checksum,
    Record,
    find_damage,
    read_chain,
)


def _save(run_dir: Path, step: int, base: Checkpoint | None = None, keep: int = 2) -> Checkpoint:
    final = checkpoint_path(run_dir, step)
    folder = make_partial(final)
    for name in ("data", "index"):
        with (folder / name).open("wb") as file:
            file.write(f"{name} of {step}".encode() * 100)
            file.flush()
            os.fsync(file.fileno())
    files = {name: Checksum.of(folder / name) for name in ("data", "index")}
    saved = publish(final, Record({"step": step}, files, (), base and base.link()))
    prune(run_dir, keep)
    return saved


def _names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in run_dir.iterdir())


def _newest(run_dir: Path) -> Any:
    """The values of the newest checkpoint; all must be sound."""
    values = None
    for path in checkpoints(run_dir):
        chain = read_chain(path)
        assert find_damage(chain) == []
        values = chain[-1].record.values["step"]
    return values


@dataclasses.dataclass
class Case:
    """Checkpoints in a folder, and one that is saved to it."""

    before: list[int]
    is_chain: bool = False
    keep: int = 2

    def prepare(self, run_dir: Path) -> None:
        base = None
        for step in self.before:
            saved = _save(run_dir, step, base)
            base = saved if self.is_chain else None

    def save(self, run_dir: Path) -> None:
        _save(run_dir, 3, keep=self.keep)


CASES = {
    "next": Case([1]),
    "prunes": Case([1, 2]),
    "prunes a chain": Case([1, 2], is_chain=True, keep=1),
    "replaces": Case([3]),
}


def test_the_newest_and_what_they_build_on_stay(tmp_path: Path) -> None:
    full = _save(tmp_path, 1)
    first = _save(tmp_path, 2, full)
    second = _save(tmp_path, 3, first)
    third = _save(tmp_path, 4, second)
    assert _names(tmp_path) == ["step_1", "step_2", "step_3", "step_4"]
    again = _save(tmp_path, 10)
    assert _names(tmp_path) == ["step_1", "step_10", "step_2", "step_3", "step_4"]
    assert [part.path for part in read_chain(third.path)] == checkpoints(tmp_path)[:-1]
    _save(tmp_path, 11, again)
    assert _names(tmp_path) == ["step_10", "step_11"]


def test_nothing_is_removed_while_a_base_is_unknown(tmp_path: Path) -> None:
    last = _save(tmp_path, 2, _save(tmp_path, 1))
    record = (last.path / "record.json").read_bytes()
    (last.path / "record.json").write_bytes(record[:-3])
    _save(tmp_path, 3)
    (last.path / "record.json").write_bytes(record)
    assert [part.path.name for part in read_chain(last.path)] == ["step_1", "step_2"]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_at_every_moment_of_a_save_the_newest_checkpoint_is_whole(
    tmp_path: Path, case: Case
) -> None:
    run_dir, moments = tmp_path / "run", tmp_path / "moments"
    case.prepare(run_dir)
    (run_dir / "schema.json").write_text("{}")
    number = itertools.count()
    with before_each(lambda event: shutil.copytree(run_dir, moments / str(next(number)))):
        case.save(run_dir)
    assert next(number) > 10
    for moment in moments.iterdir():
        assert _newest(moment) in (case.before[-1], 3)
        # A run that is killed there and started again goes on as if nothing had been.
        _save(moment, 4)
        kept = ["schema.json", "step_4"] + [f"step_{s}" for s in (*case.before, 3)]
        assert set(_names(moment)) <= set(kept)
        assert _newest(moment) == 4


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_failure_at_any_moment_leaves_the_newest_checkpoint_whole(
    tmp_path: Path, case: Case
) -> None:
    for fail_at in itertools.count():
        run_dir, events = tmp_path / str(fail_at), itertools.count()
        case.prepare(run_dir)
        with contextlib.suppress(OSError), before_each(partial(_fail_at, fail_at, events)):
            case.save(run_dir)
        assert _newest(run_dir) in (case.before[-1], 3)
        if next(events) <= fail_at:
            break
        _save(run_dir, 4)
        assert _newest(run_dir) == 4
        assert set(_names(run_dir)) <= {f"step_{s}" for s in (*case.before, 3, 4)}
    assert fail_at > 10


def _fail_at(number: int, events: Iterator[int], event: str) -> None:
    if next(events) == number:
        raise OSError(28, "No space left on device")


def test_what_is_published_is_on_disk_before(tmp_path: Path) -> None:
    events: list[str] = []
    with before_each(events.append):
        _save(tmp_path, 1)
    renamed = events.index(f"os.rename {tmp_path / '.partial_step_1'}")
    folder = tmp_path / ".partial_step_1"
    for path in (folder / "data", folder / "index", folder / "record.json", folder):
        assert f"fsync {path}" in events[:renamed]
    assert f"fsync {tmp_path}" in events[renamed:]
