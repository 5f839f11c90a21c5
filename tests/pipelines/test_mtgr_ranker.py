"""MTGR through the pipelines: windows, several labels, computed features, restarts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipelines import finetune, pretrain
from pipelines.configuration.command_line import read_settings
from pipelines.configuration.settings import MTGRStage
from pipelines.results.plan import plan
from pipelines.stages.rankers import mtgr_config
from pipelines.stages.trained_run import open_run
from tests.pipelines.clicks import SCHEMA, run, write_clicks
from torchrec_gr.data.log_source import TEST
from torchrec_gr.metrics import auc, normalized_entropy
from torchrec_gr.models.mtgr_config import MTGRConfig
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.training.checkpoint import read_weights
from torchrec_gr.training.evaluation import evaluate
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.tables import table_of
from torchrec_gr.training.trainer import Trainer

SETTINGS: dict[str, Any] = {
    "data": "custom",
    "dims": [8],
    "epochs": 1,
    "seeds": 1,
    "transformer": {"num_layers": 1, "num_heads": 2},
    "pretrain": {"epochs": 1, "num_negatives": 16},
    "mtgr": {
        "batch_tokens": 300,
        "stochastic_length": 1.6,
        "warmup_steps": 0,
        "sizes": {"dim": 16, "num_layers": 1, "num_heads": 2, "task_hidden": 8},
    },
    "variants": {
        "no-cross": {"cross_features": False},
        "by-day": {"mtgr": {"window_hours": 24, "max_candidates": 3}},
        "causal": {"mtgr": {"sizes": {"mask": "causal"}}},
        "one-norm": {
            "mtgr": {"sizes": {"norm_groups": [["user", "static", "real_time", "candidate"]]}}
        },
        "dfgr": {"mtgr": {"sizes": {"flow": "dfgr"}}},
    },
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clicks(tmp_path_factory.mktemp("log"), SETTINGS)


def test_a_comparison_of_every_form_scores_the_same_rows(config: Path, tmp_path: Path) -> None:
    models = ("dlrm", "dlrm@no-cross", "mtgr", *(f"mtgr@{name}" for name in SETTINGS["variants"]))
    rows = run(config, tmp_path, "--models", ",".join(models), "--strategies", "none")
    assert set(rows) == {("popularity", "none", 0)} | {(model, "none", 1) for model in models}
    for (model, _, epoch), row in rows.items():
        assert 0 < row["auc"] < 1
        if epoch:
            assert 0 < row["auc_click"] < 1, model
            assert row["ne_click"] > 0
            assert row["train_ne"] > 0, "the sample of training rows is scored from windows too"
    for model in ("dlrm", "mtgr"):
        with_cross, without = (rows[name, "none", 1] for name in (model, f"{model}@no-cross"))
        assert with_cross["parameters_embedding"] > without["parameters_embedding"]
        assert with_cross["parameters_dense"] > without["parameters_dense"]
    assert (tmp_path / "predictions" / "mtgr.none.d8.s0.npz").exists()
    assert "auc_click" in (tmp_path / "report.md").read_text()


def test_the_report_compares_with_further_models(config: Path, tmp_path: Path) -> None:
    settings = {**yaml.safe_load(config.read_text()), "against": ["mtgr"]}
    path = tmp_path / "against.yaml"
    path.write_text(yaml.safe_dump(settings))
    run(path, tmp_path / "out", "--models", "dlrm,mtgr,mtgr@dfgr", "--strategies", "none")
    report = (tmp_path / "out" / "report.md").read_text()
    _, _, after = report.partition("AUC less mtgr")
    table = after.split("\n\n")[0]
    assert "| dlrm |" in table
    assert "| mtgr@dfgr |" in table
    assert "| mtgr |" not in table


class Killed(BaseException):
    """Ends a run as a signal would: no handler of errors sees it."""


def test_a_run_that_is_stopped_goes_on_to_the_same_weights(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**yaml.safe_load(config.read_text()), "checkpoint_steps": 2, "epochs": 2}
    path = tmp_path / "often.yaml"
    path.write_text(yaml.safe_dump(settings))

    def train(out: Path) -> dict[str, torch.Tensor]:
        finetune.main(["--config", str(path), "--model", "mtgr", "--out", str(out)])
        return read_weights(out)

    whole = train(tmp_path / "whole")
    train_step, calls = Trainer._train_step, []

    def killing(self: Trainer, *given: Any) -> None:
        train_step(self, *given)
        calls.append(self.global_step)
        if len(calls) == 5:
            raise Killed

    monkeypatch.setattr(Trainer, "_train_step", killing)
    with pytest.raises(Killed):
        train(tmp_path / "stopped")
    monkeypatch.setattr(Trainer, "_train_step", train_step)
    for name, weight in train(tmp_path / "stopped").items():
        assert torch.equal(weight, whole[name]), name


def test_tables_come_from_a_pretraining_and_dense_parameters_cannot(
    config: Path, tmp_path: Path
) -> None:
    pretrained, out = tmp_path / "pretrained", tmp_path / "out"
    pretrain.main(["--config", str(config), "--out", str(pretrained)])
    arguments = ["--config", str(config), "--model", "mtgr", "--pretrained", str(pretrained)]
    finetune.main([*arguments, "--strategy", "sparse-freeze", "--out", str(out)])
    items = [
        next(weight for name, weight in read_weights(run_dir).items() if table_of(name) == "item")
        for run_dir in (pretrained, out)
    ]
    assert torch.equal(*items)
    with pytest.raises(SystemExit, match="no full transfer into MTGRRanker"):
        finetune.main([*arguments, "--strategy", "full", "--out", str(tmp_path / "full")])
    settings = read_settings(config, {"models": ["mtgr"], "strategies": ["none", "full", "sparse"]})
    assert [r.strategy for r in plan(settings, has_histories=True)] == ["none", "sparse"]


@pytest.mark.parametrize("model", ["mtgr", "mtgr@no-cross", "dlrm@no-cross"])
def test_a_trained_run_is_opened_with_what_it_read(
    config: Path, tmp_path: Path, model: str
) -> None:
    finetune.main(["--config", str(config), "--model", model, "--out", str(tmp_path)])
    written = json.loads((tmp_path / "metrics" / "epoch_1.json").read_text())["metrics"][TEST]
    with process_group("cpu") as device:
        opened = open_run(tmp_path)
        computed = [f.name for f in opened.log.schema.features if f.statistic is not None]
        assert bool(computed) == (model == "mtgr")
        ranker = opened.ranker()
        loader = ranker.reading.to_score(opened.log, TEST, "exposure")
        scored = evaluate(ranker.module, loader, device)
    assert auc(scored.labels[:, 0], scored.logits[:, 0]) == pytest.approx(written["auc"], abs=1e-6)
    ne = normalized_entropy(scored.labels[:, 0], scored.logits[:, 0])
    assert written["ne"] == pytest.approx(ne, abs=1e-6)
    assert scored.logits.shape == (opened.log.num_rows(TEST), 2)


def test_a_preset_stands_in_the_place_of_width_layers_and_heads_alone() -> None:
    sizes = MTGRConfig(dim=16, max_seq_len=99, mask="causal")
    stage = MTGRStage(max_candidates=10, sizes=sizes, preset="medium")
    schema = FeatureSchema.from_dict(SCHEMA)
    assert mtgr_config(stage, schema) == MTGRConfig(
        dim=768, num_layers=5, num_heads=3, max_seq_len=99, mask="causal"
    )
    assert mtgr_config(MTGRStage(), schema) == MTGRConfig()


def test_rows_have_room_for_all_that_they_may_hold() -> None:
    """A scalar, a history of 2,000 and what 256 exposures add to it, and these."""
    schema = FeatureSchema.from_dict({**SCHEMA, "max_history": 2000})
    assert mtgr_config(MTGRStage(), schema).max_seq_len == 1 + 2000 + 2 * 256


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"norm_groups": [["user"]]}, "expected each of user, static, real_time, candidate"),
        ({"mask": "dynamc"}, "did you mean 'dynamic'"),
        ({"dims": 8}, r"unknown setting mtgr.sizes. 'dims': did you mean 'dim'"),
    ],
)
def test_sizes_that_cannot_be_are_named(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_settings(None, {"mtgr": {"sizes": sizes}})
