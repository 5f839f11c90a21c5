"""Every set of CPU instructions gives the right result; one that the machine lacks is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ops.attention_cases import REFERENCES, assert_near_the_oracle, make_case
from torchrec_gr.ops import cpu_capability

REPO = Path(__file__).parents[2]
SETTING = "TORCHREC_GR_CPU_CAPABILITY"
CAPABILITIES = ["default", "avx2", "avx512", "avx512_bf16", "amx"]
"""Each has all that those before it have."""

pytestmark = pytest.mark.skipif(SETTING in os.environ, reason=f"{SETTING} is set already")

Outcomes = dict[str, tuple[int, str]]


def compare(capability: str) -> None:
    """Runs both ops on the instructions in use, which must be those that are named."""
    assert cpu_capability() == capability
    lengths = [0, 1, 70, 150]
    for dtype in (torch.float32, torch.bfloat16):
        for dims in ((64, 64), (25, 50)):
            case = make_case(
                lengths, lengths, bias="given", dims=dims, dtype=dtype, max_seq_len=150
            )
            for attend in REFERENCES:
                assert_near_the_oracle(attend, case)


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    """The exit status and the errors of a process for each setting, side by side."""
    processes = {
        setting: subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import compare; compare({setting!r})"],
            cwd=REPO,
            env=os.environ | {SETTING: setting, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for setting in [*CAPABILITIES, "sse9"]
    }
    errors = {setting: process.communicate()[1] for setting, process in processes.items()}
    return {name: (process.returncode, errors[name]) for name, process in processes.items()}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_near_the_reference(capability: str, outcomes: Outcomes) -> None:
    status, error = outcomes[capability]
    if CAPABILITIES.index(capability) <= CAPABILITIES.index(cpu_capability()):
        assert status == 0, error
        return
    assert status != 0
    assert f"ValueError: {SETTING}: this CPU has no {capability}" in error
    pytest.skip(f"this CPU has no {capability}: refused, as it should be")


def test_an_unknown_setting_is_refused(outcomes: Outcomes) -> None:
    status, error = outcomes["sse9"]
    assert status != 0
    assert f"ValueError: {SETTING}: expected one of {', '.join(CAPABILITIES)}, got sse9" in error


def test_the_best_is_as_good_as_what_pytorch_finds() -> None:
    least = {"DEFAULT": "default", "AVX2": "avx2", "AVX512": "avx512"}
    of_pytorch = least[torch.backends.cpu.get_cpu_capability()]
    assert CAPABILITIES.index(cpu_capability()) >= CAPABILITIES.index(of_pytorch)
