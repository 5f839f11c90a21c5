"""A process that is really killed, and torchrun: what the tests in one process cannot show."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from torchrec_gr.training.checkpoint import read_weights

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIG = """
data: synthetic
data_options:
  {num_users: 300, num_items: 200, num_clusters: 5, num_impressions: 3000, num_organic: 6000}
models: [dlrm, gpsd, mtgr]
strategies: [none, sparse-freeze]
epochs: 2
seeds: 1
dims: [8]
transformer: {num_layers: 1, num_heads: 2}
pretrain: {epochs: 8, num_negatives: 64, batch_size: 16}
mtgr: {batch_tokens: 4000, sizes: {dim: 16, num_layers: 1}}
checkpoint_steps: 5
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def start(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for_checkpoint(out: Path, after: str, process: subprocess.Popen[bytes]) -> str:
    """The name of the first checkpoint later than `after`."""
    while process.poll() is None:
        found = sorted((p.name for p in out.glob("step_*")), key=lambda name: int(name[5:]))
        if found and found[-1] != after:
            return found[-1]
        time.sleep(0.01)
    raise AssertionError(f"the run ended before a checkpoint later than {after or 'none'}")


def test_a_run_that_is_killed_three_times_ends_with_the_same_weights(
    config: Path, tmp_path: Path
) -> None:
    command = ("pipelines.pretrain", "--config", str(config), "--out")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(*command, str(whole)).wait() == 0
    last = ""
    for _ in range(3):
        process = start(*command, str(killed))
        last = wait_for_checkpoint(killed, last, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(*command, str(killed)).wait() == 0
    expected, found = read_weights(whole), read_weights(killed)
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        assert torch.equal(weight, found[name]), name


def test_two_processes_under_torchrun_give_the_results_of_one(config: Path, tmp_path: Path) -> None:
    def rows(num_processes: int) -> list[dict[str, Any]]:
        out = tmp_path / str(num_processes)
        launcher = ("torch.distributed.run", "--nproc-per-node", str(num_processes), "-m")
        command = ("pipelines.compare", "--config", str(config), "--out", str(out))
        assert start(*launcher, *command).wait() == 0
        found: list[dict[str, Any]] = json.loads((out / "results.json").read_text())
        return found

    for one, two in zip(rows(1), rows(2), strict=True):
        assert (one["model"], one["strategy"], one["epoch"]) == (
            two["model"],
            two["strategy"],
            two["epoch"],
        )
        # Another order of summation: losses agree far closer than ranks of 300 rows can.
        assert two["auc"] == pytest.approx(one["auc"], abs=0.01)
        if one["log_loss"] is not None:
            assert two["log_loss"] == pytest.approx(one["log_loss"], rel=0.01)
