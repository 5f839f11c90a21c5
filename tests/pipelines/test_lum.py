"""LUM's three steps on a small log, and taken up again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from pipelines import lum
from pipelines.stages.lum_cache import LUMCache, load_cache, save_cache
from torchrec_gr.training.trainer import EpochProgress, Trainer

CONFIG = {
    "data": "synthetic",
    "data_options": {
        "num_users": 60,
        "num_items": 50,
        "num_clusters": 5,
        "num_impressions": 1000,
        "num_organic": 1200,
    },
    "epochs": 1,
    "dims": [8],
    "lum": {
        "num_queries": 3,
        "summary_dim": 2,
        "trunk": {"dim": 8, "num_layers": 1},
        "training": {"epochs": 2, "batch_size": 16, "num_negatives": 16},
    },
}


def run(config: Path, out: Path) -> dict[str, float]:
    lum.main(["--config", str(config), "--out", str(out)])
    names = (lum.VANILLA, lum.WITH_LUM)
    epochs = {name: json.loads((out / name / lum.AUCS).read_text()) for name in names}
    return {name: aucs[0]["test"] for name, aucs in epochs.items()}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


def test_a_stopped_run_ends_as_one_that_was_not(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = run(config, tmp_path / "whole")
    printed = capsys.readouterr().out
    assert "under 3 conditions" in printed
    assert f"{lum.WITH_LUM}: test AUC by epoch {whole[lum.WITH_LUM]:.4f}" in printed
    train_epoch = Trainer.train_epoch

    def stop_after_one(trainer: Trainer) -> EpochProgress:
        if trainer.progress.epoch == 1:
            raise KeyboardInterrupt
        return train_epoch(trainer)

    monkeypatch.setattr(Trainer, "train_epoch", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "stopped")
    monkeypatch.undo()
    assert run(config, tmp_path / "stopped") == whole
    assert whole[lum.VANILLA] != whole[lum.WITH_LUM]

    later = tmp_path / "whole" / "lum"
    origin = json.loads((tmp_path / "whole" / "cache" / "record.json").read_text())["origin"]
    assert (later / origin["run"]).is_dir(), "the record names the checkpoint that was asked"


def test_a_condition_that_the_log_does_not_have_names_the_nearest(
    config: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    settings = {**CONFIG, "lum": {"conditions": ["history_clster"]}}
    other.write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit, match=r"history_clster.*history_cluster"):
        lum.main(["--config", str(other), "--out", str(tmp_path / "out")])


def test_a_cache_is_read_as_it_was_written_or_not_at_all(tmp_path: Path) -> None:
    cache = LUMCache(torch.randn(5, 2, 4), torch.randn(7, 4))
    folder, origin = tmp_path / "cache", {"run": "step_4", "weights": "abc"}
    save_cache(cache, folder, origin)
    read = load_cache(folder, origin)
    assert torch.equal(read.answers, cache.answers)
    assert torch.equal(read.items, cache.items)
    with pytest.raises(ValueError, match="was made of another weights: remove it"):
        load_cache(folder, {**origin, "weights": "abd"})
    path = folder / "answers.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "answers": tensors["answers"] + 1}, path)
    with pytest.raises(ValueError, match=r"answers\.safetensors was altered"):
        load_cache(folder, origin)
    (folder / "record.json").write_text("{}")
    with pytest.raises(ValueError, match="has no sound record"):
        load_cache(folder, origin)
