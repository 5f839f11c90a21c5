"""The CUDA sources compile without a warning, for the GPUs that setup.py names."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils import cpp_extension

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "csrc" / "cuda"

pytestmark = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="nvcc is not on the PATH: CUDA sources are not compiled"
)


def compile_source(source: Path, *options: str) -> None:
    command = ["nvcc", "-std=c++20", "-Werror", "all-warnings", *options]
    compiled = subprocess.run([*command, str(source)], cwd=ROOT, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("source", sorted(SOURCES.glob("*.cu")), ids=lambda source: source.stem)
def test_kernels(source: Path, architecture: str, tmp_path: Path) -> None:
    compile_source(source, "-O3", f"-arch={architecture}", "-cubin", "-o", str(tmp_path / "cubin"))


@pytest.mark.parametrize("source", sorted(SOURCES.glob("*_op.cpp")), ids=lambda source: source.stem)
def test_ops(source: Path, tmp_path: Path) -> None:
    # A CPU build of torch lacks the header that the macro leaves out.
    options = ["-DC10_CUDA_NO_CMAKE_CONFIGURE_FILE", "-Xcompiler", "-Wall,-Wextra,-Werror"]
    includes = [f"-isystem={path}" for path in cpp_extension.include_paths()]
    compile_source(source, *options, *includes, "-c", "-o", str(tmp_path / "object"))
