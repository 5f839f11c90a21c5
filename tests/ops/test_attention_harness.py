"""The CPU attention kernels under sanitizers."""

from __future__ import annotations

import pytest

from tests.csrc.sanitized import SANITIZERS, Harness, run

ATTENTION = Harness(
    "attention",
    sources=("csrc/cpu/attention/*.cpp", "tests/csrc/attention_harness.cpp"),
    headers=("csrc/*.h", "csrc/cpu/*.h", "csrc/cpu/attention/*.h", "tests/csrc/a*.h"),
    flags=('-DTORCHREC_GR_TILES_HEADER="amx_emulation.h"',),
)


def test_kernels_are_clean() -> None:
    program = run(ATTENTION, "address", "--quick")
    assert program.returncode == 0, program.stdout


def test_kernels_for_amx_are_clean_in_emulation() -> None:
    program = run(ATTENTION, "address", "--quick")
    instruction_sets = program.stdout.splitlines()[0].split()
    if "avx512_bf16" not in instruction_sets:
        pytest.skip("this CPU has no AVX-512 with bfloat16, which kernels for AMX use beside tiles")
    assert "amx" in instruction_sets
    assert program.returncode == 0, program.stdout


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_kernels_are_clean_at_length(sanitizer: str) -> None:
    program = run(ATTENTION, sanitizer, "--long")
    assert program.returncode == 0, program.stdout
