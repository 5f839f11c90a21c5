"""Pretrain and fine-tune by themselves, then go on with a later day's log."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from pipelines import finetune, pretrain
from torchrec_gr.schema.vocabulary import Vocabulary
from torchrec_gr.training.checkpoint import latest_checkpoint, read_weights

SCHEMA = {
    "name": "clicks",
    "user": "user",
    "time": "time",
    "time_unit": "s",
    "labels": ["click"],
    "max_history": 8,
    "tables": [{"name": "item"}, {"name": "user"}],
    "features": [
        {"name": "user", "role": "contextual"},
        {"name": "item", "role": "candidate"},
        {"name": "history_item", "role": "history", "column": "item"},
    ],
    "target": "history_item",
}
SMALL = {
    "data": "custom",
    "dims": [8],
    "epochs": 1,
    "transformer": {"num_layers": 1, "num_heads": 2},
    "pretrain": {"epochs": 1, "num_negatives": 16},
}


def write_day(folder: Path, items: range, seed: int) -> Path:
    """A log of one day and the config that reads it."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    log = pd.DataFrame(
        {
            "user": rng.integers(0, 30, 400),
            "time": rng.integers(0, 1000, 400),
            "item": rng.choice(np.array(items), 400),
            "click": rng.integers(0, 2, 400),
        }
    )
    log.to_parquet(folder / "log.parquet")
    (folder / "schema.yaml").write_text(yaml.safe_dump(SCHEMA))
    options = {
        "schema": str(folder / "schema.yaml"),
        "rows": "*.parquet",
        "validation_from": 700,
        "test_from": 850,
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({**SMALL, "data_dir": str(folder), "data_options": options}))
    return config


def weight_of(run: Path, table: str) -> torch.Tensor:
    weights = read_weights(run)
    return next(w for name, w in weights.items() if name.endswith(f".{table}.weight"))


def vocabulary_of(run: Path) -> Vocabulary:
    return Vocabulary.load(run / "vocabulary-0.parquet")


def test_the_stages_go_on_from_each_other_and_from_an_earlier_day(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, later = (
        write_day(tmp_path / "first", range(20), 0),
        write_day(tmp_path / "later", range(10, 40), 1),
    )
    pretrained, ranker = tmp_path / "pretrained", tmp_path / "ranker"
    pretrain.main(["--config", str(first), "--out", str(pretrained)])
    common = ["--model", "gpsd", "--config"]
    finetune.main(
        [
            *common,
            *(str(first), "--strategy", "sparse-freeze"),
            *("--pretrained", str(pretrained), "--out", str(ranker)),
        ]
    )
    assert torch.equal(weight_of(ranker, "item"), weight_of(pretrained, "item"))
    printed = capsys.readouterr().out
    assert "epoch 1: validation AUC 0." in printed
    assert "body.decoder" in printed, "what came from pretraining is shown"
    metrics = json.loads((ranker / "metrics" / "epoch_1.json").read_text())["metrics"]
    assert metrics["test"]["gauc"] is None
    assert "histories grow within the test window" in metrics["test"]["gauc_refused"]

    day = tmp_path / "day"
    pretrain.main(["--config", str(later), "--from", str(pretrained), "--out", str(day)])
    before, after = vocabulary_of(pretrained), vocabulary_of(day)
    assert after.ids[: len(before.ids)].equals(before.ids)
    assert len(after.ids) > len(before.ids)
    assert weight_of(day, "item").shape[0] == after.num_rows

    ranked = tmp_path / "ranked"
    finetune.main([*common, str(later), "--from", str(ranker), "--out", str(ranked)])
    assert latest_checkpoint(ranked) is not None


def test_a_strategy_without_a_pretrained_run_says_what_to_do(tmp_path: Path) -> None:
    config = write_day(tmp_path / "first", range(20), 0)
    arguments = ["--config", str(config), "--strategy", "sparse", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="needs a pretrained run: name one with --pretrained"):
        finetune.main(arguments)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    config = write_day(tmp_path / "first", range(20), 0)
    arguments = ["--config", str(config), "--from", str(tmp_path), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="is not the folder of a run"):
        pretrain.main(arguments)


def test_rows_come_by_raw_id_into_a_log_of_other_items(tmp_path: Path) -> None:
    first = write_day(tmp_path / "first", range(20), 0)
    other = write_day(tmp_path / "other", range(10, 40), 1)
    pretrained, ranker = tmp_path / "pretrained", tmp_path / "ranker"
    pretrain.main(["--config", str(first), "--out", str(pretrained)])
    finetune.main(
        [
            *("--model", "gpsd", "--config", str(other), "--strategy", "sparse-freeze"),
            *("--pretrained", str(pretrained / "artefact"), "--out", str(ranker)),
        ]
    )
    before, after = vocabulary_of(pretrained), vocabulary_of(ranker)
    assert not after.ids[: len(before.ids)].equals(before.ids)
    for raw in range(10, 20):
        old, new = (v.rows(np.array([raw]))[0] for v in (before, after))
        assert torch.equal(weight_of(pretrained, "item")[old], weight_of(ranker, "item")[new])
