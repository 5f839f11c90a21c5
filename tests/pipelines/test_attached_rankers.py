"""A module inside a ranker, through the pipelines: pretrained, attached, trained, gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import compare, finetune, pretrain
from torchrec_gr.training.checkpoint import read_weights
from torchrec_gr.training.tables import table_of

CONFIG = """
data: synthetic
data_options:
  {num_users: 150, num_items: 100, num_clusters: 5, num_impressions: 1500, num_organic: 1500}
epochs: 1
seeds: 1
dims: [8]
dlrm: {batch_size: 256, warmup_steps: 0}
transformer: {num_layers: 1, num_heads: 2}
pretrain: {epochs: 1, num_negatives: 32}
pinfm:
  epochs: 1
  sizes: {num_layers: 1, num_heads: 2, segment_length: 20}
  losses: {window: 0.5, positives: {history_action: [1]}}
variants:
  gslt: {pinfm: {tuning: {learnable_token: true, ranking_weight: 0.1, next_token_weight: 0.1}}}
  short: {pinfm: {sizes: {segment_length: 10}}}
"""
BODY = "model.pretrained.body.encoder"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def pretrained(config: Path) -> Path:
    out = config.parent / "pinfm"
    pretrain.main(["--config", str(config), "--module", "pinfm", "--out", str(out)])
    return out


def rank(config: Path, out: Path, *further: str) -> dict[str, torch.Tensor]:
    finetune.main(["--config", str(config), "--out", str(out), *further])
    return read_weights(out)


def test_frozen_keeps_every_bit_of_the_module_and_slow_does_not(
    config: Path, pretrained: Path, tmp_path: Path
) -> None:
    before = read_weights(pretrained)
    for strategy in ("frozen", "full-slow", "sparse"):
        after = rank(
            *(config, tmp_path / strategy, "--model", "dlrm+pinfm@gslt", "--strategy", strategy),
            *("--pretrained", str(pretrained)),
        )
        moved = {
            name
            for name, weight in before.items()
            if name.startswith("body.encoder.") and name != "body.encoder.no_history"
            if not torch.equal(after[f"{BODY}.{name.removeprefix('body.encoder.')}"], weight)
        }
        rows = {table_of(name): weight for name, weight in after.items() if table_of(name)}
        same_rows = torch.equal(rows["pretrained_item_id"], _table(before, "item_id"))
        assert same_rows == (strategy == "frozen")
        assert bool(moved) == (strategy != "frozen"), moved
        assert f"{BODY}.token" in after, "the variant's learnable token"


def _table(weights: dict[str, torch.Tensor], table: str) -> torch.Tensor:
    return next(weight for name, weight in weights.items() if table_of(name) == table)


def test_slow_moves_the_module_less_than_full(
    config: Path, pretrained: Path, tmp_path: Path
) -> None:
    before = _table(read_weights(pretrained), "item_id")
    distance = {}
    for strategy in ("full", "full-slow"):
        after = rank(
            *(config, tmp_path / strategy, "--model", "dlrm+pinfm", "--strategy", strategy),
            *("--pretrained", str(pretrained)),
        )
        distance[strategy] = float((_table(after, "pretrained_item_id") - before).norm())
    assert 0 < distance["full-slow"] < 0.5 * distance["full"]


def test_a_ranker_goes_on_from_an_earlier_one_with_its_module(
    config: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "first"
    model = ("--model", "dlrm+pinfm@gslt")
    rank(config, first, *model, "--strategy", "frozen", "--pretrained", str(pretrained))
    capsys.readouterr()
    rank(config, tmp_path / "second", *model, "--from", str(first))
    assert "pretrained_item_id" in capsys.readouterr().out
    report = json.loads((tmp_path / "second" / "transfer.json").read_text())
    left = [e["name"] for e in report["parameters"] if e["status"] != "loaded"]
    assert not left


def test_a_comparison_shares_pretraining_and_names_variants(config: Path, tmp_path: Path) -> None:
    compare.main(
        [
            *("--config", str(config), "--out", str(tmp_path), "--strategies", "none,frozen,full"),
            *("--models", "dlrm,dlrm+pinfm,dlrm+pinfm@gslt,dlrm+pinfm@short"),
        ]
    )
    rows: list[dict[str, Any]] = json.loads((tmp_path / "results.json").read_text())
    assert {(r["model"], r["strategy"]) for r in rows} == {
        ("popularity", "none"),
        ("dlrm", "none"),
        *(
            (f"dlrm+pinfm{variant}", strategy)
            for variant in ("", "@gslt", "@short")
            for strategy in ("none", "frozen", "full")
        ),
    }
    folders = sorted(path.name for path in (tmp_path / "pretrain").iterdir())
    assert len(folders) == 2
    assert folders[0] == "pinfm.all.d8.s0"
    assert "dlrm+pinfm@gslt" in (tmp_path / "report.md").read_text()
    frozen = next(r for r in rows if (r["model"], r["strategy"]) == ("dlrm+pinfm", "frozen"))
    assert "pretrained_item_id" in frozen["frozen"]
    assert any("body.encoder" in name for name in frozen["frozen"])
    assert frozen["rows_item_10_or_more"] > 0
    assert (tmp_path / "predictions" / "rows.npz").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--strategy", "frozen"], "strategy 'frozen' needs a pretrained run"),
        (
            ["--strategy", "full", "--model", "dlrm+gpsd", "--pretrained", "{pretrained}"],
            "holds a module of kind 'pinfm', the model names 'gpsd'",
        ),
    ],
)
def test_what_cannot_be_attached_is_said(
    config: Path, pretrained: Path, tmp_path: Path, given: list[str], message: str
) -> None:
    arguments = [word.format(pretrained=pretrained) for word in given]
    if "--model" not in arguments:
        arguments += ["--model", "dlrm+pinfm"]
    with pytest.raises(SystemExit, match=message):
        finetune.main(["--config", str(config), "--out", str(tmp_path), *arguments])


@pytest.mark.parametrize(
    ("positives", "message"),
    [
        ("{history_acton: [1]}", "did you mean 'history_action'"),
        ("{history_action: [77]}", r"history_action needs values that .* has, got \[77\]"),
        ("{history_action: []}", "history_action needs values"),
    ],
)
def test_positives_that_do_not_exist_are_named(
    config: Path, tmp_path: Path, positives: str, message: str
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(CONFIG.replace("{history_action: [1]}", positives))
    with pytest.raises(SystemExit, match=message):
        pretrain.main(["--config", str(wrong), "--module", "pinfm", "--out", str(tmp_path / "o")])


def test_content_tables_hold_every_row_of_the_log(config: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.yaml"
    small.write_text(CONFIG.replace("learnable_token: true", "content: {hour: 3}"))
    with pytest.raises(SystemExit, match="'hour' needs a row for each of the log's, 25, got 3"):
        finetune.main(
            ["--config", str(small), "--model", "dlrm+pinfm@gslt", "--out", str(tmp_path / "o")]
        )
