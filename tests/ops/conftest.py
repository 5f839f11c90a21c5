"""CUDA kernels compiled for the host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def compile_for_host(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("emulation")

    def compile_source(name: str) -> Path:
        library = folder / f"{name}.so"
        command = [os.environ.get("CXX", "g++"), "-std=c++20", "-O2", "-U_FORTIFY_SOURCE"]
        command += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-shared", "-fPIC"]
        command += ["-fno-gnu-unique"]  # two libraries must not share the emulation's state
        command += ["-Icsrc", "-include", "tests/csrc/cuda_emulation.h"]
        command += [f"tests/csrc/{name}.cpp", "-o", str(library)]
        subprocess.run(command, cwd=ROOT, check=True)
        return library

    return compile_source
