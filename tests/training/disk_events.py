"""Everything that happens to a folder on disk, one event after the other."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

_CHANGES = {"os.rename", "os.mkdir", "os.rmdir", "os.remove"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_watching: list[Callable[[str], None]] = []


@contextmanager
def before_each(call: Callable[[str], None]) -> Iterator[None]:
    """Calls a function before each change of a file or folder and each flush, with its name."""
    fsync = os.fsync

    def watched_fsync(descriptor: int) -> None:
        call(f"fsync {os.readlink(f'/proc/self/fd/{descriptor}')}")
        fsync(descriptor)

    _watching.append(call)
    try:
        with mock.patch("os.fsync", watched_fsync):
            yield
    finally:
        _watching.clear()


def _see(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event == "open" and (arguments[2] or 0) & _WRITES and isinstance(arguments[0], str | Path):
        _call(f"write {arguments[0]}")
    elif event in _CHANGES:
        _call(f"{event} {arguments[0]}")


def _call(what: str) -> None:
    call = _watching.pop()  # what it does itself is no event
    try:
        call(what)
    finally:
        _watching.append(call)


sys.addaudithook(_see)  # stays for the life of the process
