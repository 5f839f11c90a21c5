"""What costs.json keeps, and what of it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.benchmarking.cost import Cost, read_costs, write_cost

COST = Cost(
    train_flops=1000.0,
    score_flops=300.0,
    latency_ms={1: (1.0, 2.0), 100: (2.0, 3.0), 1000: (9.0, 12.0)},
    peak_memory_bytes=10**7,
    checkpoint_bytes=10**6,
)


def test_costs_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_costs(tmp_path) == {}
    write_cost(tmp_path, "dlrm.d16", COST)
    write_cost(tmp_path, "mtgr.d16", COST)
    write_cost(tmp_path, "dlrm.d16", Cost(**{**vars(COST), "pretrain_flops": 5.0}))
    costs = read_costs(tmp_path)
    assert list(costs) == ["dlrm.d16", "mtgr.d16"]
    assert costs["mtgr.d16"] == COST
    assert costs["dlrm.d16"].pretrain_flops == 5.0
    trees = Cost(**{**vars(COST), "train_flops": None, "score_flops": None})
    write_cost(tmp_path, "gbdt", trees)
    assert read_costs(tmp_path)["gbdt"] == trees


@pytest.mark.parametrize(
    "change", [{"train_flops": -1.0}, {"latency_ms": {"1": [1.0]}}, {"watts": 3.0}]
)
def test_a_damaged_file_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    write_cost(tmp_path, "dlrm.d16", COST)
    path = tmp_path / "costs.json"
    entries = json.loads(path.read_text())
    entries["dlrm.d16"].update(change)
    path.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"costs.json is damaged"):
        read_costs(tmp_path)
