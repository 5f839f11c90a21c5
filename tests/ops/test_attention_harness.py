"""The CPU attention kernels under sanitizers: compiled with a harness that has no torch, and run.

Torch and its threads are not compiled for sanitizers, which would raise false alarms in the op.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CXX = os.environ.get("CXX", "g++")
# Optimised just enough to run; lines are enough to debug. The other warnings are the build's.
FLAGS = ["-std=c++20", "-O1", "-g1", "-pthread", "-Icsrc", "-Itests/csrc"]
FLAGS += ['-DTORCHREC_GR_TILES_HEADER="amx_emulation.h"']
SANITIZERS = {
    # Without what AddressSanitizer finds too, and which takes long to compile.
    "address": ["-fsanitize=address,undefined", "-fno-sanitize=null,object-size"],
    "thread": ["-fsanitize=thread"],
}


@functools.cache
def build(sanitizer: str) -> Path:
    """The harness, compiled with a sanitizer; what is compiled from the same text is kept."""
    flags = [*FLAGS, *SANITIZERS[sanitizer], "-fno-sanitize-recover=all"]
    folder = ROOT / "build" / "harness" / sanitizer
    folder.mkdir(parents=True, exist_ok=True)
    compiler = subprocess.run([CXX, "--version"], check=True, capture_output=True).stdout
    headers = [*ROOT.glob("csrc/*.h"), *ROOT.glob("csrc/cpu/**/*.h"), *ROOT.glob("tests/csrc/a*.h")]
    common = hashlib.sha256(compiler + " ".join(flags).encode())
    for header in sorted(headers):
        common.update(header.read_bytes())

    def compile_source(source: Path) -> Path:
        content = common.copy()
        content.update(source.read_bytes())
        return make(folder, f"{source.stem}-{content.hexdigest()}", [*flags, "-c", str(source)])

    sources = [*ROOT.glob("csrc/cpu/attention/*.cpp"), ROOT / "tests/csrc/attention_harness.cpp"]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        objects = list(threads.map(compile_source, sorted(sources)))
    names = hashlib.sha256(" ".join(file.name for file in objects).encode())
    program = make(folder, f"harness-{names.hexdigest()}", [*flags, *map(str, objects)])
    for file in set(folder.iterdir()) - {*objects, program}:
        file.unlink()
    return program


def make(folder: Path, name: str, arguments: list[str]) -> Path:
    """A file that the compiler makes, unless it is there already."""
    file, unfinished = folder / name, folder / f"{name}.unfinished"
    if not file.exists():
        subprocess.run([CXX, *arguments, "-o", str(unfinished)], cwd=ROOT, check=True)
        unfinished.rename(file)
    return file


@functools.cache
def run(sanitizer: str, cases: str) -> subprocess.CompletedProcess[str]:
    """Whose exit status is not 0 where a case fails or the sanitizer finds anything."""
    options = {"UBSAN_OPTIONS": "print_stacktrace=1", "TSAN_OPTIONS": "halt_on_error=1"}
    return subprocess.run(
        [build(sanitizer), cases],
        env={**os.environ, **options},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_kernels_are_clean() -> None:
    program = run("address", "--quick")
    assert program.returncode == 0, program.stdout


def test_kernels_for_amx_are_clean_in_emulation() -> None:
    program = run("address", "--quick")
    instruction_sets = program.stdout.splitlines()[0].split()
    if "avx512_bf16" not in instruction_sets:
        pytest.skip("this CPU has no AVX-512 with bfloat16, which kernels for AMX use beside tiles")
    assert "amx" in instruction_sets
    assert program.returncode == 0, program.stdout


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_kernels_are_clean_at_length(sanitizer: str) -> None:
    program = run(sanitizer, "--long")
    assert program.returncode == 0, program.stdout
