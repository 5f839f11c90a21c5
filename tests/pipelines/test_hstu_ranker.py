"""HSTU's ranker through the pipelines: windows, several labels, its forms, room for rows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines import finetune
from pipelines.configuration.command_line import read_settings
from pipelines.configuration.model_name import parse_model
from pipelines.configuration.settings import HSTUStage
from pipelines.configuration.variants import lay_over
from pipelines.stages.rankers import hstu_ranker_config
from pipelines.stages.trained_run import open_run
from tests.pipelines.clicks import SCHEMA as CLICKS
from tests.pipelines.clicks import run, write_clicks
from torchrec_gr.data.log_source import TEST
from torchrec_gr.metrics import auc
from torchrec_gr.models.hstu_ranker_config import HSTURankerConfig
from torchrec_gr.modules.sequence_trunk import TrunkConfig
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.training.evaluation import evaluate
from torchrec_gr.training.process_group import process_group

SCHEMA = {
    **CLICKS,
    "tables": [*CLICKS["tables"], {"name": "view"}],
    "features": [
        *CLICKS["features"],
        {"name": "history_view", "role": "history", "column": "view"},
    ],
}
TRUNK = {"dim": 16, "num_layers": 1, "num_heads": 2}
SETTINGS: dict[str, Any] = {
    "dims": [8],
    "epochs": 1,
    "seeds": 1,
    "hstu": {
        "batch_tokens": 400,
        "warmup_steps": 0,
        "sizes": {"trunk": TRUNK, "task_hidden": 8},
    },
    "variants": {
        "no-cross": {"cross_features": False},
        "genrank": {
            "hstu": {
                "sizes": {
                    "tokens": "added",
                    "encodings": ["position", "request_index", "time_gap"],
                    "trunk": {"bias": "alibi"},
                }
            }
        },
        "ligr": {"hstu": {"sizes": {"trunk": {"block": "ligr"}, "set_wise": True}}},
    },
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clicks(tmp_path_factory.mktemp("log"), SETTINGS, SCHEMA)


def test_a_comparison_of_every_form_scores_the_same_rows(config: Path, tmp_path: Path) -> None:
    models = ("dlrm", "hstu", *(f"hstu@{name}" for name in SETTINGS["variants"]))
    rows = run(config, tmp_path, "--models", ",".join(models), "--strategies", "none")
    assert set(rows) == {("popularity", "none", 0)} | {(model, "none", 1) for model in models}
    trained = [rows[model, "none", 1] for model in models]
    assert all(0 < row["auc"] < 1 and 0 < row["auc_click"] < 1 for row in trained)
    _, hstu, no_cross, genrank, ligr = (row["parameters_dense"] for row in trained)
    assert no_cross < hstu < min(genrank, ligr)


def test_a_trained_run_is_opened_and_scores_as_it_did(config: Path, tmp_path: Path) -> None:
    finetune.main(["--config", str(config), "--model", "hstu@ligr", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "metrics" / "epoch_1.json").read_text())["metrics"][TEST]
    with process_group("cpu") as device:
        opened = open_run(tmp_path)
        ranker = opened.ranker()
        loader = ranker.reading.to_score(opened.log, TEST, "exposure")
        scored = evaluate(ranker.module, loader, device)
    assert auc(scored.labels[:, 0], scored.logits[:, 0]) == pytest.approx(written["auc"], abs=1e-6)
    assert scored.logits.shape == (opened.log.num_rows(TEST), 2)


def test_a_variant_changes_what_it_names_alone(config: Path) -> None:
    settings = read_settings(config, {})
    genrank = lay_over(settings, parse_model("hstu@genrank", settings.variants).variant)
    assert genrank.hstu == HSTUStage(
        batch_tokens=400,
        warmup_steps=0,
        sizes=HSTURankerConfig(
            trunk=TrunkConfig(**TRUNK, max_seq_len=1024, bias="alibi"),  # type: ignore[arg-type]
            tokens="added",
            encodings=("position", "request_index", "time_gap"),
            task_hidden=8,
        ),
    )


def test_rows_have_room_for_all_that_they_may_hold() -> None:
    """A scalar, a history of 2,000 and what 256 exposures add to it, and these."""
    schema = FeatureSchema.from_dict({**SCHEMA, "max_history": 2000})
    interleaved = hstu_ranker_config(HSTUStage(), schema, "exposure")
    assert interleaved.trunk.max_seq_len == 1 + 2 * (2000 + 256) + 256
    added = HSTUStage(sizes=dataclasses.replace(HSTURankerConfig(), tokens="added"))
    assert hstu_ranker_config(added, schema, "exposure").trunk.max_seq_len == 1 + 2000 + 2 * 256


def test_sets_of_candidates_need_moments_that_are_requests() -> None:
    stage = HSTUStage(sizes=HSTURankerConfig(set_wise=True))
    schema = FeatureSchema.from_dict(SCHEMA)
    with pytest.raises(ValueError, match="set_wise needs history_as_of 'exposure', got 'day'"):
        hstu_ranker_config(stage, schema, "day")
    hstu_ranker_config(stage, schema, "exposure")


def test_a_module_does_not_go_into_it() -> None:
    with pytest.raises(ValueError, match="hstu reads whole requests"):
        parse_model("hstu+pinfm")
