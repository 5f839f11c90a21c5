"""The main job on a tiny log: everything is written, and a stopped comparison goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from pipelines import compare as compare_module
from pipelines.compare import main
from pipelines.configuration.settings import Settings
from pipelines.results.plan import plan

CONFIG = """
data: synthetic
data_options:
  {num_users: 150, num_items: 100, num_clusters: 5, num_impressions: 1500, num_organic: 1500}
models: [dlrm, gpsd]
strategies: [none, sparse-freeze]
epochs: 2
seeds: 1
dims: [8]
transformer: {num_layers: 1, num_heads: 2}
pretrain: {epochs: 1, num_negatives: 32}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def rows_of(out: Path) -> dict[tuple[str, str, int, int], dict[str, Any]]:
    rows = json.loads((out / "results.json").read_text())
    return {(r["model"], r["strategy"], r["seed"], r["epoch"]): r for r in rows}


def run(config: Path, out: Path, *further: str) -> dict[tuple[str, str, int, int], dict[str, Any]]:
    main(["--config", str(config), "--out", str(out), *further])
    return rows_of(out)


class Killed(BaseException):
    """Ends a run as a signal would: no handler of errors sees it."""


def test_a_comparison_writes_rows_and_reports_and_can_be_stopped(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(config, tmp_path / "whole")
    assert set(whole) == {("popularity", "none", 0, 0)} | {
        (model, strategy, 0, epoch)
        for model in ("dlrm", "gpsd")
        for strategy in ("none", "sparse-freeze")
        for epoch in (1, 2)
    }
    for row in whole.values():
        assert 0 < row["auc"] < 1
    frozen = whole["gpsd", "sparse-freeze", 0, 2]
    assert frozen["frozen"]
    assert frozen["train_seconds"] > frozen["pretrain_seconds"] > 0
    report = (tmp_path / "whole" / "report.html").read_text()
    assert "sparse-freeze" in report
    assert (tmp_path / "whole" / "report.md").exists()

    record, calls = compare_module.Comparison._record, []

    def killing(self: Any, row: Any) -> None:
        record(self, row)
        calls.append(row)
        if len(calls) == 4:  # popularity, two epochs of dlrm, one of the next run
            raise Killed

    monkeypatch.setattr(compare_module.Comparison, "_record", killing)
    with pytest.raises(Killed):
        run(config, tmp_path / "stopped")
    monkeypatch.setattr(compare_module.Comparison, "_record", record)
    stopped = run(config, tmp_path / "stopped")
    assert {key: row["auc"] for key, row in stopped.items()} == {
        key: row["auc"] for key, row in whole.items()
    }

    more = run(config, tmp_path / "stopped", "--seeds", "2", "--models", "dlrm")
    assert set(more) == set(whole) | {
        ("dlrm", strategy, 1, epoch) for strategy in ("none", "sparse-freeze") for epoch in (1, 2)
    }

    with pytest.raises(SystemExit, match=r"other settings \(history_as_of\).*another --out"):
        run(config, tmp_path / "stopped", "--history-as-of", "day")


def test_an_unknown_model_is_named_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match="did you mean 'dlrm'"):
        plan(Settings(models=("dlmr",)), has_histories=True)


def build_own(tables: list[EmbeddingBagConfig], num_dense: int) -> nn.Module:
    """A user's own model, as `--baseline tests.pipelines.test_compare:build_own` names it."""
    return DLRM(EmbeddingBagCollection(tables=tables), num_dense, [8, 8], [4, 1])


def test_a_users_own_model_is_trained_and_compared_with(config: Path, tmp_path: Path) -> None:
    own = "tests.pipelines.test_compare:build_own"
    rows = run(config, tmp_path / "own", "--baseline", own, "--models", "dlrm", "--epochs", "1")
    name = own.replace(":", ".")
    assert {(name, "none", 0, 1), (name, "sparse-freeze", 0, 1)} <= set(rows)
    assert f"{name} reaches a test AUC" in (tmp_path / "own" / "report.md").read_text()


def test_a_users_own_model_takes_the_place_of_dlrm() -> None:
    settings = Settings(baseline="mine.models:build", models=("dlrm", "gpsd"), seeds=1)
    models = {run.model for run in plan(settings, has_histories=True)}
    assert models == {"mine.models:build", "gpsd"}


def test_a_model_of_tables_alone_takes_no_full_transfer() -> None:
    settings = Settings(models=("dlrm",), strategies=("none", "full", "full-freeze", "sparse"))
    assert {run.strategy for run in plan(settings, has_histories=True)} == {"none", "sparse"}


def test_a_module_takes_every_strategy_and_names_its_run() -> None:
    strategies = ("none", "full-slow", "frozen", "sparse")
    settings = Settings(models=("dlrm+pinfm",), strategies=strategies, seeds=1)  # type: ignore[arg-type]
    runs = plan(settings, has_histories=True)
    assert [run.strategy for run in runs] == list(strategies)
    assert runs[1].key.name == "dlrm+pinfm.full-slow.d32.all_users.s0"
    with pytest.raises(ValueError, match=r"'dlrm\+pinfm' reads histories: this log has none"):
        plan(settings, has_histories=False)


def test_a_log_without_histories_has_each_model_pretrain_itself() -> None:
    settings = Settings(models=("dlrm",), strategies=("none", "full-slow", "sparse-thaw"), seeds=1)
    runs = plan(settings, has_histories=False)
    assert [(run.strategy, run.pretrain) for run in runs] == [
        ("none", None),
        ("full-slow", "labels"),
        ("sparse-thaw", "labels"),
    ]
    assert runs[1].key.name == "dlrm.full-slow.d32.labels.s0"
