"""DIN and Wukong through the pipelines: trained, compared, a module in one, tables in both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines import compare
from tests.pipelines.clicks import SCHEMA, run, write_clicks
from torchrec_gr.training.checkpoint import read_weights
from torchrec_gr.training.tables import table_of

SETTINGS: dict[str, Any] = {
    "models": ["din", "wukong", "wukong+pinfm"],
    "strategies": ["none", "sparse"],
    "strategies_of": {"wukong+pinfm": ["none"]},
    "epochs": 1,
    "seeds": 1,
    "dims": [8],
    "dlrm": {"batch_size": 256, "warmup_steps": 0},
    "transformer": {"num_layers": 1, "num_heads": 2},
    "pretrain": {"epochs": 1, "num_negatives": 32},
    "pinfm": {"sizes": {"num_layers": 1, "num_heads": 2}},
}


def test_they_train_as_dlrm_does_and_take_its_pretrained_tables(tmp_path: Path) -> None:
    rows = run(write_clicks(tmp_path, SETTINGS), tmp_path / "out")
    runs = {(model, strategy) for model, strategy, epoch in rows if epoch == 1}
    assert runs == {
        *((model, "none") for model in SETTINGS["models"]),
        *((model, "sparse") for model in ("din", "wukong")),
    }
    weights = read_weights(tmp_path / "out" / "runs" / "din.none.d8.s0")
    assert {table_of(name) for name in weights} >= {"item", "user", "page", "seen"}


def test_din_without_a_history_to_compare_is_refused(tmp_path: Path) -> None:
    features = [f for f in SCHEMA["features"] if f["name"] != "history_item"]
    schema = {key: value for key, value in SCHEMA.items() if key != "target"}
    config = write_clicks(
        tmp_path,
        {**SETTINGS, "models": ["din"], "strategies": ["none"], "strategies_of": {}},
        {**schema, "features": features},
    )
    with pytest.raises(SystemExit, match="of the same table to compare it with"):
        compare.main(["--config", str(config), "--out", str(tmp_path / "out")])
