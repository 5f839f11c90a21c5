"""LONGER through the pipelines: trained on requests, compared, opened again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines import compare, finetune
from pipelines.configuration.command_line import read_settings
from pipelines.configuration.settings import LongerStage
from pipelines.stages.rankers import longer_config
from pipelines.stages.trained_run import open_run
from torchrec_gr.data.log_source import TEST
from torchrec_gr.metrics import auc
from torchrec_gr.models.longer import LongerConfig
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table
from torchrec_gr.training.evaluation import evaluate
from torchrec_gr.training.process_group import process_group

CONFIG = """
data: synthetic
data_options:
  {num_users: 120, num_items: 60, num_clusters: 5, num_impressions: 1200, num_organic: 1500}
epochs: 1
seeds: 1
dims: [8]
longer:
  batch_size: 256
  warmup_steps: 0
  sizes: {trunk: {dim: 16, num_layers: 2, num_heads: 2}, merge: 2, num_recent: 3, task_hidden: 8}
variants:
  hstu: {longer: {sizes: {trunk: {block: hstu, bias: alibi}, merge: 1}}}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(CONFIG)
    return path


def test_a_comparison_scores_longer_in_every_form(config: Path, tmp_path: Path) -> None:
    arguments = ["--config", str(config), "--models", "dlrm,longer,longer@hstu"]
    compare.main([*arguments, "--strategies", "none", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "results.json").read_text())
    scored = {row["model"]: row["auc"] for row in rows if row["epoch"] == 1}
    assert set(scored) == {"dlrm", "longer", "longer@hstu"}
    assert all(0 < value < 1 for value in scored.values())


def test_a_trained_run_is_opened_with_its_sizes(config: Path, tmp_path: Path) -> None:
    finetune.main(["--config", str(config), "--model", "longer", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "metrics" / "epoch_1.json").read_text())["metrics"][TEST]
    with process_group("cpu") as device:
        opened = open_run(tmp_path)
        ranker = opened.ranker()
        loader = ranker.reading.to_score(opened.log, TEST, "exposure")
        scored = evaluate(ranker.module, loader, device)
    assert auc(scored.labels[:, 0], scored.logits[:, 0]) == pytest.approx(written["auc"], abs=1e-6)


def test_rows_have_room_for_all_that_they_may_hold() -> None:
    schema = FeatureSchema(
        name="shop",
        labels=("click",),
        features=(
            Feature("country", "contextual"),
            Feature("age", "contextual", "dense"),
            Feature("history_item", "history", column="item"),
            Feature("item", "candidate"),
        ),
        tables=(Table("country"), Table("item")),
        user="user",
        time="time",
        max_history=2001,
    )
    sizes = LongerConfig(merge=4)
    assert longer_config(LongerStage(sizes=sizes), schema).trunk.max_seq_len == 2 + 501 + 1
    short = LongerConfig(merge=100)
    assert longer_config(LongerStage(sizes=short), schema) == short


def test_sizes_that_cannot_be_are_named() -> None:
    with pytest.raises(ValueError, match="'num_recents': did you mean 'num_recent'"):
        read_settings(None, {"longer": {"sizes": {"num_recents": 3}}})
