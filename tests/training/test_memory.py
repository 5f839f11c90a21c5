"""Free memory: the machine's or the container's, shared by the processes of a machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from torchrec_gr.training import memory
from torchrec_gr.training.memory import free_memory

CPU = torch.device("cpu")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 1000 kB free and no container; the folder is that of control groups."""
    (tmp_path / "meminfo").write_text(
        "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:   1000 kB\n"
    )
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    return tmp_path


def test_this_machine_has_memory() -> None:
    assert free_memory(CPU) > 2**20


def test_processes_share_what_is_free(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_memory(CPU) == 1_024_000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory(CPU) == 256_000


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [("max", 700_000, 1_024_000), ("900000", 700_000, 250_000), ("900000", 960_000, 0)],
)
def test_a_container_leaves_what_its_limit_does(
    machine: Path, limit: str, used: int, free: int
) -> None:
    (machine / "memory.max").write_text(f"{limit}\n")
    (machine / "memory.current").write_text(f"{used}\n")
    (machine / "memory.stat").write_text("anon 1\ninactive_file 50000\nactive_file 7\n")
    assert free_memory(CPU) == free


def test_an_older_container_is_read_as_well(machine: Path) -> None:
    (machine / "memory").mkdir()
    (machine / "memory" / "memory.limit_in_bytes").write_text("900000\n")
    (machine / "memory" / "memory.usage_in_bytes").write_text("700000\n")
    (machine / "memory" / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 50000\n")
    assert free_memory(CPU) == 250_000


def test_without_meminfo_all_of_the_memory_counts(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_MEMINFO", machine / "none")
    assert free_memory(CPU) > 2**30
