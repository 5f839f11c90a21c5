"""What a benchmark's report says beyond a comparison's: verdicts, front, costs, layers, search."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from pipelines.benchmarking.cost import Cost, write_cost
from pipelines.evaluation.cold_rows import RowFacts
from pipelines.reports.comparison import write_report
from pipelines.reports.costs import cost_section
from pipelines.reports.document import Figure, Heading, NamedBullets, Paragraph, Table
from pipelines.reports.folder import Folder
from pipelines.reports.names import short_names
from pipelines.reports.pareto import Point, front, pareto_section
from pipelines.reports.search import search_section
from pipelines.reports.strata import strata_section
from pipelines.reports.verdicts import verdict_section
from pipelines.results.artifacts import RunInfo, load_predictions, write_run_info
from pipelines.results.resampling import HISTORY, layers
from pipelines.results.rows import ResultRow, append_results
from pipelines.results.summary import summarize
from tests.pipelines.reports.benchmark_folder import UNTRAINED, fill
from torchrec_gr.metrics import auc, paired_bootstrap

FEW = ("dlrm", "mtgr", "din", "item_mean")


def row(model: str, seed: int, auc: float, **more: float | str | None) -> ResultRow:
    fields = {"dim": 16, "validation_auc": auc, "gauc_refused": "streaming", **more}
    seconds = fields.pop("train_seconds", 10.0)
    size = fields.pop("parameters", 1000)
    return ResultRow(model, "none", seed, int(fields.pop("epoch", 1)), auc, seconds, size, **fields)


def cost(milliseconds: float) -> Cost:
    return Cost(
        latency_ms={100: (milliseconds, 2 * milliseconds)},
        peak_memory_bytes=3_000_000,
        checkpoint_bytes=12_000,
        train_flops=2e6,
        score_flops=1e6,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """dlrm, a dearer and better one, one that is not told apart, and a reference."""
    rows = []
    for seed in range(3):
        drift = 0.0001 * seed
        rows.append(row("dlrm", seed, 0.7561 + drift, train_flops=1e12))
        rows.append(
            row(
                "mtgr",
                seed,
                0.7584 + drift,
                train_flops=5.1e12,
                train_seconds=34.0,
                parameters=1200,
            )
        )
        rows.append(row("din", seed, 0.7562 + drift, train_seconds=0.5))
    rows.append(row("item_mean", 0, 0.6, dim=None, epoch=0, validation_auc=None, train_seconds=0.0))
    append_results(tmp_path, rows)
    write_cost(tmp_path, "dlrm.d16", cost(1.5))
    write_cost(tmp_path, "mtgr.d16", cost(12.1))
    return tmp_path


def verdicts(folder: Path) -> dict[str, str]:
    (block,) = (b for b in verdict_section(Folder.read(folder)) if isinstance(b, NamedBullets))
    return dict(block.items)


def test_a_verdict_says_what_it_is_by_how_much_and_at_what_cost(folder: Path) -> None:
    said = verdicts(folder)
    assert list(said) == ["dlrm", "mtgr", "din", "item_mean"]
    assert said["dlrm"] == (
        "is the baseline: AUC 0.7562; 10 s of training, 1T training FLOPs, 1k parameters, p50 1.50 "
        "ms at 100 candidates."
    )
    assert re.fullmatch(
        r"is better than dlrm: AUC 0\.7585 against 0\.7562, "
        r"\+0\.0023 \[\+0\.002\d to \+0\.002\d\]; "
        r"it costs 3\.4x the training time \(34 s\), 5\.1x the training FLOPs, 1\.2x the "
        r"parameters, 8\.1x the latency at 100 candidates \(p50 12\.1 ms\)\.",
        said["mtgr"],
    )
    assert said["din"].startswith("is not told apart from dlrm: AUC 0.7563")
    assert said["din"].endswith(
        "it costs 0.05x the training time (0.5 s), 1.0x the parameters."
    )  # what nobody measured is not spoken of
    assert said["item_mean"].startswith("is worse than dlrm: AUC 0.6000 against 0.7562")
    assert "costs" not in said["item_mean"]


def test_an_equal_budget_is_named_in_every_line_of_a_trained_model(folder: Path) -> None:
    write_run_info(folder, RunInfo(budget="60 seconds", epochs=9))
    said = verdicts(folder)
    assert said["mtgr"].startswith("is better than dlrm at equal budget (60 seconds): AUC")
    assert "budget" not in said["item_mean"]
    page = write_report(folder).read_text()
    assert "every model that is trained got 60 seconds, pretraining counted" in page
    assert "Not finished" not in page  # the budget ends a run, not the number of epochs


def test_without_costs_the_report_is_a_comparisons(folder: Path) -> None:
    (folder / "costs.json").unlink()
    text = write_report(folder).read_text()
    for title in ("Verdicts", "Cost", "Quality against cost", "By history length"):
        assert f"<h2>{title}</h2>" not in text
    assert "<h2>Quality and cost</h2>" in text
    assert "Better than dlrm: mtgr, none, dim 16" in text


def test_the_front_is_what_no_other_point_beats() -> None:
    random = np.random.default_rng(3)
    points = [
        Point(str(i), cost, auc)
        for i, (cost, auc) in enumerate(random.integers(0, 6, (40, 2)).tolist())
    ]
    on_front = front(points)
    for p in points:
        beaten = False
        for q in points:
            if q.cost <= p.cost and q.auc >= p.auc and (q.cost, q.auc) != (p.cost, p.auc):
                beaten = True
        assert (p in on_front) != beaten
    assert [p.cost for p in on_front] == sorted(p.cost for p in on_front)
    assert front([]) == []


def test_a_sentence_names_the_front_and_the_figure_its_points(folder: Path) -> None:
    blocks = list(pareto_section(Folder.read(folder)))
    said = [b.text for b in blocks if isinstance(b, Paragraph)]
    assert (
        "On the front by training seconds, pretraining counted: din (0.5 s, 0.7563); mtgr (34 s, "
        "0.7585). The rest (1) are no better than something cheaper."
    ) in said
    figures = {b.name: b for b in blocks if isinstance(b, Figure)}
    assert list(figures) == ["pareto-seconds", "pareto-flops", "pareto-latency"]
    for name in ("dlrm", "din", "mtgr"):
        assert f">{name}</text>" in figures["pareto-seconds"].svg
    assert ">din</text>" not in figures["pareto-latency"].svg  # it was not measured


def test_a_model_far_below_is_named_under_the_figure_instead(folder: Path) -> None:
    append_results(folder, [row("gbdt", 0, 0.70, train_seconds=2.0), row("wukong", 0, 0.7565)])
    figure = next(b for b in pareto_section(Folder.read(folder)) if isinstance(b, Figure))
    assert "Below the figure: gbdt (2.0 s, 0.7000)." in figure.caption
    assert ">gbdt</text>" not in figure.svg


def test_costs_stand_in_one_table(folder: Path) -> None:
    (table,) = (b for b in cost_section(Folder.read(folder)) if isinstance(b, Table))
    rows = {cells[0]: dict(zip(table.columns, cells, strict=True)) for cells in table.rows}
    assert rows["mtgr"] == {
        "model": "mtgr",
        "train s": "34",
        "train FLOPs": "5.1T",
        "FLOPs an example": "2M",
        "ms at 100 (p99)": "12.1 (24.2)",
        "peak memory": "3MB",
        "checkpoint": "12kB",
    }
    assert set(list(rows["item_mean"].values())[1:]) == {"-"}


def test_the_search_is_shown_with_its_winners(tmp_path: Path) -> None:
    assert list(search_section(tmp_path)) == []
    trials = [
        {"settings": {"ranking": {"tables": {"lr": 0.1}}}, "validation_auc": 0.7, "seconds": 4.0},
        {"settings": {}, "validation_auc": 0.72, "seconds": 5.5},
    ]
    search = {
        "words": "Two trials each.",
        "space": [{"tables": 1.0, "dense": 1.0}, {"tables": 0.3, "dense": 1.0}],
        "trials": {"din": trials, "dlrm": trials[:1]},
        "winners": {"din": 1, "dlrm": 0},
    }
    (tmp_path / "search.json").write_text(json.dumps(search))
    blocks = list(search_section(tmp_path))
    assert Paragraph("Two trials each.") in blocks
    of_trials, of_winners = (b for b in blocks if isinstance(b, Table))
    assert of_trials.columns[1:] == [
        "tables x1, dense x1",
        "tables x0.3, dense x1",
        "seconds in all",
    ]
    assert of_trials.rows == [
        ["din", "0.7000", "0.7200 *", "9.5"],
        ["dlrm", "0.7000 *", "-", "4.0"],
    ]
    assert of_winners.rows == [["din", "as they are"], ["dlrm", "ranking.tables.lr 0.1"]]
    (tmp_path / "search.json").write_text(json.dumps({**search, "winners": {"din": 7}}))
    with pytest.raises(ValueError, match=r"search\.json is damaged"):
        list(search_section(tmp_path))


def test_names_are_as_short_as_tells_the_variants_apart() -> None:
    base = row("dlrm", 0, 0.7)
    rows = [
        base,
        dataclasses.replace(base, model="gpsd"),
        dataclasses.replace(base, model="gpsd", strategy="sparse", pretrain="all users"),
    ]
    assert list(short_names(summarize(rows, {})).values()) == ["dlrm", "gpsd", "gpsd, sparse"]
    wider = [*rows, dataclasses.replace(base, model="gpsd", dim=32)]
    names = short_names(summarize(wider, {})).values()
    assert {"dlrm, dim 16", "gpsd, dim 16", "gpsd, dim 32", "gpsd, sparse, dim 16"} == set(names)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    fill(folder, models=FEW)
    return folder


def test_layers_are_measured_from_predictions_as_if_each_were_the_whole(filled: Path) -> None:
    folder = Folder.read(filled)
    blocks = list(strata_section(folder))
    titles = [b.text for b in blocks if isinstance(b, Heading)]
    assert titles == ["By history length", "By item frequency"]
    table = next(b for b in blocks if isinstance(b, Table))
    facts = RowFacts.load(filled)
    assert facts is not None
    masks = layers(facts, HISTORY)
    assert [column.split(" (")[0] for column in table.columns[1:]] == list(masks)
    assert {cells[0] for cells in table.rows} == set(FEW)
    cells = next(cells for cells in table.rows if cells[0] == "mtgr")
    by_model = {
        model: [
            load_predictions(filled, row.run)
            for row in folder.rows
            if row.model == model and row.epoch == 1
        ]
        for model in ("dlrm", "mtgr")
    }
    for cell, mask in zip(cells[1:], masks.values(), strict=True):
        means = {
            model: np.mean([auc(found.labels[mask], found.scores[mask]) for found in of])
            for model, of in by_model.items()
        }
        value, difference = cell.split(", ")
        assert value == f"{means['mtgr']:.4f}"
        assert difference.startswith(f"{means['mtgr'] - means['dlrm']:+.4f} ± ")


def test_the_interval_of_a_layer_is_that_of_its_own_users(tmp_path: Path) -> None:
    fill(tmp_path, num_seeds=1, models=("dlrm", "mtgr"))
    table = next(b for b in strata_section(Folder.read(tmp_path)) if isinstance(b, Table))
    cell = next(cells for cells in table.rows if cells[0] == "mtgr")[2]
    facts = RowFacts.load(tmp_path)
    assert facts is not None
    mask = list(layers(facts, HISTORY).values())[1]
    runs = {row.model: row.run for row in Folder.read(tmp_path).rows}
    of = {model: load_predictions(tmp_path, runs[model]) for model in ("mtgr", "dlrm")}
    paired = paired_bootstrap(
        of["mtgr"].labels[mask],
        of["mtgr"].scores[mask],
        of["dlrm"].scores[mask],
        of["mtgr"].user_ids[mask],
    )
    assert cell.endswith(f"{paired.value:+.4f} ± {1.96 * paired.standard_error:.4f}")


def test_figures_of_layers_have_a_named_line_a_trained_model(filled: Path) -> None:
    figures = [b for b in strata_section(Folder.read(filled)) if isinstance(b, Figure)]
    assert [figure.name for figure in figures] == ["auc_by_history", "auc_by_frequency"]
    for figure in figures:
        for model in FEW:
            assert (f">{model}</text>" in figure.svg) == (model not in UNTRAINED)


def test_the_summary_comes_first_and_how_to_repeat_it_is_there(filled: Path) -> None:
    text = write_report(filled).read_text()
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles[:5] == ["In short", "Verdicts", "Quality against cost", "Results", "Cost"]
    assert "How the settings were chosen" in titles
    assert "How to reproduce" in titles
    assert "At commit 0123456789abcdef" in text
    assert (filled / "report.md").read_text().count("](plots/") == text.count("<svg")
