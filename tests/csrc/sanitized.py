"""Programs without torch that run the CPU kernels, compiled for sanitizers.

Torch and its threads are not compiled for sanitizers, which would raise false alarms in the ops.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
CXX = os.environ.get("CXX", "g++")
# Optimised just enough to run; lines are enough to debug. The other warnings are the build's.
FLAGS = ["-std=c++20", "-O1", "-g1", "-pthread", "-Icsrc", "-Itests/csrc"]
SANITIZERS = {
    # Without what AddressSanitizer finds too, and which takes long to compile.
    "address": ["-fsanitize=address,undefined", "-fno-sanitize=null,object-size"],
    "thread": ["-fsanitize=thread"],
}


@dataclasses.dataclass(frozen=True)
class Harness:
    """A program that takes --quick or --long, and exits with 0 where all is well.

    Args:
        name: the folder that it is built in.
        sources, headers: patterns of files, from the root of the repository.
        flags: of the compiler, beside the common ones.
    """

    name: str
    sources: tuple[str, ...]
    headers: tuple[str, ...]
    flags: tuple[str, ...] = ()


@functools.cache
def run(harness: Harness, sanitizer: str, cases: str) -> subprocess.CompletedProcess[str]:
    """Whose exit status is not 0 where a case fails or the sanitizer finds anything."""
    options = {"UBSAN_OPTIONS": "print_stacktrace=1", "TSAN_OPTIONS": "halt_on_error=1"}
    return subprocess.run(
        [_build(harness, sanitizer), cases],
        env={**os.environ, **options},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@functools.cache
def _build(harness: Harness, sanitizer: str) -> Path:
    """The program; what is compiled from the same text is kept."""
    flags = [*FLAGS, *harness.flags, *SANITIZERS[sanitizer], "-fno-sanitize-recover=all"]
    folder = ROOT / "build" / "harness" / harness.name / sanitizer
    folder.mkdir(parents=True, exist_ok=True)
    compiler = subprocess.run([CXX, "--version"], check=True, capture_output=True).stdout
    common = hashlib.sha256(compiler + " ".join(flags).encode())
    for header in _files(harness.headers):
        common.update(header.read_bytes())

    def compile_source(source: Path) -> Path:
        content = common.copy()
        content.update(source.read_bytes())
        return _make(folder, f"{source.stem}-{content.hexdigest()}", [*flags, "-c", str(source)])

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        objects = list(threads.map(compile_source, _files(harness.sources)))
    names = hashlib.sha256(" ".join(file.name for file in objects).encode())
    program = _make(folder, f"harness-{names.hexdigest()}", [*flags, *map(str, objects)])
    for file in set(folder.iterdir()) - {*objects, program}:
        file.unlink()
    return program


def _files(patterns: Iterable[str]) -> list[Path]:
    return sorted(file for pattern in patterns for file in ROOT.glob(pattern))


def _make(folder: Path, name: str, arguments: list[str]) -> Path:
    """A file that the compiler makes, unless it is there already."""
    file, unfinished = folder / name, folder / f"{name}.unfinished"
    if not file.exists():
        subprocess.run([CXX, *arguments, "-o", str(unfinished)], cwd=ROOT, check=True)
        unfinished.rename(file)
    return file
