"""The benchmark on a tiny log: budgets hold, a stopped one goes on, a fall is an error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines import benchmark as command
from pipelines.benchmark import main
from pipelines.benchmarking.cost import Cost
from pipelines.configuration.command_line import read_settings
from tests.pipelines.clicks import write_clicks
from tests.pipelines.test_compare import Killed

SETTINGS: dict[str, Any] = {
    "models": ["dlrm", "gpsd"],
    "strategies": ["none"],
    "strategies_of": {"dlrm": ["none"], "gpsd": ["none", "sparse-freeze"]},
    "references": ["item_mean"],
    "epochs": 2,
    "seeds": 1,
    "dims": [8],
    "transformer": {"num_layers": 1, "num_heads": 2},
    "pretrain": {"epochs": 2, "num_negatives": 16, "batch_size": 8},
    "search": {"trials": [[1, 1], [3, 1]]},
}
COST = Cost(
    train_flops=1000.0,
    pretrain_flops=5000.0,
    score_flops=300.0,
    latency_ms={1: (1.0, 2.0), 100: (2.0, 3.0), 1000: (9.0, 12.0)},
    peak_memory_bytes=10**7,
    checkpoint_bytes=10**6,
)


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Costs that are known beforehand; the names of models that were asked for."""
    asked: list[str] = []

    def measure(*_: Any, model: str, **__: Any) -> Cost:
        asked.append(model)
        return COST

    monkeypatch.setattr(command, "measure_cost", measure)
    return asked


def run(folder: Path, *further: str, **settings: Any) -> list[dict[str, Any]]:
    config = write_clicks(folder, {**SETTINGS, **settings})
    main(["--config", str(config), "--out", str(folder / "out"), *further])
    rows: list[dict[str, Any]] = json.loads((folder / "out" / "results.json").read_text())
    return rows


def last(rows: list[dict[str, Any]]) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(row["model"], row["strategy"]): row for row in rows}


def test_every_model_is_tuned_measured_and_trained(
    tmp_path: Path, costs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = last(run(tmp_path))
    assert set(rows) == {
        ("popularity", "none"),
        ("item_mean", "none"),
        ("dlrm", "none"),
        ("gpsd", "none"),
        ("gpsd", "sparse-freeze"),
    }
    assert costs == ["dlrm", "gpsd"]
    search = json.loads((tmp_path / "out" / "search.json").read_text())
    assert set(search["winners"]) == {"dlrm", "gpsd", "gpsd, sparse-freeze"}
    transferred = rows["gpsd", "sparse-freeze"]
    assert transferred["train_flops"] > transferred["pretrain_flops"] > 0
    assert "epochs_trained" not in transferred
    report = (tmp_path / "out" / "report.html").read_text()
    assert "item_mean" in report

    fallen = [dict(row, auc=min(1.0, row["auc"] + 0.2)) for row in rows.values()]
    (tmp_path / "earlier.json").write_text(json.dumps(fallen))
    with pytest.raises(SystemExit, match="worse than the baseline"):
        run(tmp_path, "--baseline", str(tmp_path / "earlier.json"))
    same = (tmp_path / "out" / "results.json").read_text()
    (tmp_path / "earlier.json").write_text(same)
    capsys.readouterr()
    run(tmp_path, "--baseline", str(tmp_path / "earlier.json"))
    assert "nothing is worse" in capsys.readouterr().out
    assert (tmp_path / "out" / "results.json").read_text() == same
    assert costs == ["dlrm", "gpsd"]


def test_flops_end_training_pretraining_counted_and_a_stopped_run_goes_on(
    tmp_path: Path, costs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = {"kind": "flops", "value": 600_000}
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = last(run(tmp_path / "whole", budget=budget))
    for (model, _), row in whole.items():
        if model in ("dlrm", "gpsd"):
            assert row["budget_spent"] == 1.0
            assert 0 < row["epochs_trained"] <= 2
            assert 600_000 <= row["train_flops"] < 600_000 + 512 * 1000
    assert 0 < whole["gpsd", "sparse-freeze"]["pretrain_flops"] <= 300_000 + 8 * 5000

    record, calls = command.Comparison._record, []

    def killing(self: Any, row: Any) -> None:
        record(self, row)
        calls.append(row)
        if len(calls) == 2:
            raise Killed

    monkeypatch.setattr(command.Comparison, "_record", killing)
    with pytest.raises(Killed):
        run(tmp_path / "stopped", budget=budget)
    monkeypatch.setattr(command.Comparison, "_record", record)
    again = last(run(tmp_path / "stopped", budget=budget))
    assert {key: row["auc"] for key, row in again.items()} == {
        key: row["auc"] for key, row in whole.items()
    }


def test_seconds_end_training(tmp_path: Path, costs: list[str]) -> None:
    rows = run(
        tmp_path,
        "--budget",
        "seconds",
        "0.001",
        models=["dlrm"],
        strategies_of={"dlrm": ["none"], "gpsd": ["none"]},
    )
    trained = [row for row in rows if row["model"] == "dlrm"]
    assert len(trained) == 1
    assert trained[0]["epochs_trained"] < 1
    assert "0.001 seconds" in (tmp_path / "out" / "report.html").read_text()


def test_parameters_decide_the_width(tmp_path: Path, costs: list[str]) -> None:
    rows = run(
        tmp_path,
        "--budget",
        "parameters",
        "90000",
        strategies_of={"dlrm": ["none"], "gpsd": ["none"]},
    )
    widths = {row["model"]: row["dim"] for row in rows if row["dim"]}
    assert widths["dlrm"] > 8
    for row in rows:
        assert row["parameters"] <= 90_000


def test_what_is_left_out_is_said_in_the_report(
    tmp_path: Path, costs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    only = {"strategies_of": {}, "epochs": 1, "search": {"trials": [[1, 1]]}}
    rows = run(tmp_path, references=["gbdt", "item_mean"], models=["dlrm"], **only)
    assert {row["model"] for row in rows} == {"popularity", "item_mean", "dlrm"}
    report = (tmp_path / "out" / "report.md").read_text()
    assert "gbdt is left out: boosted trees need LightGBM" in report


def test_a_benchmark_has_models_of_its_own_and_a_budget_is_read() -> None:
    settings = read_settings(None, {"data": "kuairand-pure"}, "benchmark")
    assert {"din", "wukong", "mtgr", "hstu@genrank", "dlrm+pinfm"} <= set(settings.models)
    assert settings.dims == (16,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--budget", "hours", "3"), "seconds"),
        (("--budget", "seconds", "-3"), "above 0"),
        (("--budget", "flops", "many"), "budget.value"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), *words])
    assert message in capsys.readouterr().err


def test_a_baseline_that_is_not_there_is_named_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"missing.json"):
        main(["--out", str(tmp_path / "out"), "--baseline", str(tmp_path / "missing.json")])
    assert not (tmp_path / "out" / "data").exists()
