"""Costs of boosted trees, in a process of their own."""

from __future__ import annotations

from pathlib import Path

from pipelines.baselines.boosted_trees import TreeSettings
from pipelines.benchmarking.measuring import NUM_CANDIDATES
from pipelines.benchmarking.measuring_trees import measure_trees
from pipelines.configuration.config import build, read_config
from pipelines.configuration.settings import Settings
from tests.pipelines.clicks import write_clicks


def test_trees_are_measured_in_a_process_of_their_own(tmp_path: Path) -> None:
    settings = build(Settings, read_config(write_clicks(tmp_path, {})))
    few = TreeSettings(num_leaves=3, min_data_in_leaf=5, num_rounds=4, early_stopping_rounds=4)
    cost = measure_trees(settings, tmp_path / "data", few)
    assert cost.train_flops is cost.score_flops is None  # no products: there is nothing to count
    assert set(cost.latency_ms) == set(NUM_CANDIDATES)
    for median, late in cost.latency_ms.values():
        assert 0 < median <= late
    assert cost.peak_memory_bytes > 0
    assert cost.checkpoint_bytes > 100
