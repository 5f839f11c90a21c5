"""The CPU kernels of embedding tables under sanitizers."""

from __future__ import annotations

import pytest

from tests.csrc.sanitized import SANITIZERS, Harness, run

EMBEDDING = Harness(
    "embedding",
    sources=("tests/csrc/embedding_harness.cpp",),
    headers=("csrc/mix.h", "csrc/cpu/embedding/*.h", "tests/csrc/embedding_*.h"),
)


def test_kernels_are_clean() -> None:
    program = run(EMBEDDING, "address", "--quick")
    assert program.returncode == 0, program.stdout


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_kernels_are_clean_at_length(sanitizer: str) -> None:
    program = run(EMBEDDING, sanitizer, "--long")
    assert program.returncode == 0, program.stdout
