"""Costs as they are measured: FLOPs against a count by hand, and one model in its own process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.benchmarking import measuring
from pipelines.benchmarking.measuring import NUM_CANDIDATES, measure_cost
from pipelines.configuration.config import build, read_config
from pipelines.configuration.model_name import parse_model
from pipelines.configuration.settings import Settings
from pipelines.stages.open_log import open_log
from pipelines.stages.rankers import build_ranker
from pipelines.stages.transferring import FirstWeights
from tests.pipelines.clicks import write_clicks
from torchrec_gr.training.process_group import process_group

DIM = 8


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return build(Settings, read_config(write_clicks(tmp_path, {"dims": [DIM]})))


def flops_of_dlrm(settings: Settings, work_dir: Path) -> tuple[int, int]:
    """Forward alone, and forward and backward, of one example, by hand."""
    log = open_log(settings, work_dir)
    name = parse_model("dlrm")
    dlrm = build_ranker(name, log, settings, DIM, 0, FirstWeights()).module.model  # type: ignore[union-attr]
    linears = [m for m in dlrm.modules() if isinstance(m, nn.Linear)]
    weights = sum(linear.weight.numel() for linear in linears)
    num_vectors = dlrm.sparse_arch.F + 1
    pairs = num_vectors**2 * DIM
    first = dlrm.dense_arch.model._mlp[0]._linear.weight.numel()  # its input has no gradient
    return 2 * (weights + pairs), 6 * (weights + pairs) - 2 * first


def test_flops_of_dlrm_are_those_counted_by_hand(settings: Settings, tmp_path: Path) -> None:
    with process_group("cpu"):
        log = open_log(settings, tmp_path / "data")
        _, expected = flops_of_dlrm(settings, tmp_path / "data")
        counted = measuring._training_flops(log, settings, "dlrm", DIM, torch.device("cpu"))
    assert counted == expected


def test_a_model_is_measured_in_a_process_of_its_own(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as torchrun:  # in whose first process a benchmark measures
        torchrun.setenv("RANK", "0")
        torchrun.setenv("WORLD_SIZE", "2")
        cost = measure_cost(settings, tmp_path / "data", model="dlrm", dim=DIM, module="gpsd")
    with process_group("cpu"):
        forward, both = flops_of_dlrm(settings, tmp_path / "data")
    assert cost.train_flops == both
    assert cost.score_flops == forward
    assert cost.pretrain_flops is not None
    assert cost.pretrain_flops > 0
    assert set(cost.latency_ms) == set(NUM_CANDIDATES)
    for median, late in cost.latency_ms.values():
        assert 0 < median <= late
    assert cost.peak_memory_bytes > 0
    weights = sum(
        4 * parameter.numel() for parameter in _dlrm(settings, tmp_path / "data").parameters()
    )
    assert cost.checkpoint_bytes > weights


def _dlrm(settings: Settings, work_dir: Path) -> nn.Module:
    with process_group("cpu"):
        log = open_log(settings, work_dir)
        return build_ranker(parse_model("dlrm"), log, settings, DIM, 0, FirstWeights()).module
