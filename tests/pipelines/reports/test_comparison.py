"""The whole report: what it says, with all there is, with one seed, and with nothing."""

from __future__ import annotations

import dataclasses
import html.parser
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.reports import drawing
from pipelines.reports.comparison import format_table, write_report
from pipelines.results.artifacts import (
    Predictions,
    RunInfo,
    append_curve,
    save_predictions,
    write_run_info,
)
from pipelines.results.rows import ResultRow, append_results, read_results
from torchrec_gr.metrics import auc

VOID = {"meta", "br", "hr", "img", "link"}


class Page(html.parser.HTMLParser):
    """Checks that tags close in order; gathers text, ids and addresses."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(content)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def result(model: str, strategy: str, seed: int, epoch: int, auc: float, **more: Any) -> ResultRow:
    pretrained = strategy != "none"
    fields: dict[str, Any] = {
        "dim": 32,
        "pretrain": "all users" if pretrained else None,
        "validation_auc": auc - 0.001,
        "gauc_refused": "histories stream through the test window",
        "ne": 0.9,
        "log_loss": 0.5,
        "calibration": 1.01,
        "train_seconds": 10.0 * epoch + 40.0 * pretrained,
        "pretrain_seconds": 40.0 * pretrained,
        "examples_per_second": 12000.0,
        "parameters": 1_234_567,
    }
    return ResultRow(
        model=model, strategy=strategy, seed=seed, epoch=epoch, auc=auc, **{**fields, **more}
    )


def rows(num_seeds: int) -> Iterator[ResultRow]:
    for seed in range(num_seeds):
        for epoch in (1, 2):
            drop = 0.01 * (epoch - 1) - 0.0002 * seed
            yield result("dlrm", "none", seed, epoch, 0.7465 - drop)
            yield result("gpsd", "none", seed, epoch, 0.7470 - drop)
            yield result(
                "gpsd", "sparse-freeze", seed, epoch, 0.7665 - drop, metrics={"auc_x": 0.6}
            )
    yield ResultRow("popularity", "none", 0, 0, 0.6, 0, 0, gauc_refused="no users")


def test_a_whole_comparison_in_both_forms(tmp_path: Path) -> None:
    info = RunInfo(
        title="GPSD <against> DLRM",
        command="python -m pipelines.compare --data synthetic",
        data={"training rows": 131474},
        settings={"gpsd": {"layers": 2}},
        environment={"torch": "2.13.0"},
        epochs=2,
        bayes_auc=0.81,
        remarks=("Because users drift.",),
    )
    write_run_info(tmp_path, info)
    append_results(tmp_path, rows(3))
    append_curve(tmp_path, "dlrm.none.d32.s0", step=0, loss=0.7, lr=0.1, stage="train")
    append_curve(tmp_path, "dlrm.none.d32.s0", step=9, loss=0.6, lr=0.1, stage="train")
    append_curve(tmp_path, "pretraining", step=0, loss=8.0, lr=0.1, stage="pretrain")
    path = write_report(tmp_path)
    page, text = path.read_text(), (tmp_path / "report.md").read_text()

    for words in (
        "dlrm reaches a test AUC of 0.7467 ± 0.0002. Of 2 compared with it: 1 better, 1 not told "
        "apart from it. The best possible is 0.8100.",
        "Better than dlrm: gpsd, sparse-freeze, dim 32, all users (+0.0200 [+0.0195 to +0.0205]).",
        "Training to the chosen epoch took 10 s for dlrm and 10 to 50 s for the others",
        "No GAUC: histories stream through the test window.",
        "of 1 ways to use pretrained weights, 1 are better than none, 0 worse",
        "Because users drift.",
        "python -m pipelines.compare --data synthetic",
        "gpsd.layers",
        "auc_x",
        "at least 0.0015 AUC",
    ):
        assert words in page
        assert words in text
    assert "| gpsd | sparse-freeze | 32 | all users | 0.7667 | 0.7567 | 1 |" in text
    assert "| popularity | none | - | - | 1 | 0.6000 |" in text
    assert "One seed only" not in text
    assert "Not finished" not in text


def test_the_page_is_well_formed_and_fetches_nothing(tmp_path: Path) -> None:
    append_results(tmp_path, rows(2))
    content = write_report(tmp_path).read_text()
    page = Page(content)
    assert page.tags.count("svg") == 3  # AUC by epoch of two models, quality and cost
    assert len(page.ids) == len(set(page.ids))
    assert all(address.startswith("#") for address in page.addresses)
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", content)) <= set(page.ids)
    assert not {"link", "img", "iframe"} & set(page.tags)
    assert content.count("<script>") == page.tags.count("script") == 1
    assert "://" not in re.sub(r'xmlns(:xlink)?="http://www.w3.org/[^"]*"', "", content)
    assert 'name="viewport"' in content


def test_markdown_links_the_plots_that_are_there(tmp_path: Path) -> None:
    append_results(tmp_path, rows(2))
    write_report(tmp_path)
    linked = re.findall(r"\]\((plots/[^)]*)\)", (tmp_path / "report.md").read_text())
    assert len(linked) == 3
    assert all((tmp_path / link).read_text().startswith("<?xml") for link in linked)


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    append_results(tmp_path, rows(2))
    first = write_report(tmp_path).read_bytes()
    drawing.draw.cache_clear()  # as in another process
    assert write_report(tmp_path).read_bytes() == first


def test_nothing_yet_is_a_report_too(tmp_path: Path) -> None:
    assert "No results yet." in write_report(tmp_path).read_text()
    assert format_table([], tmp_path) == "no results yet"


def test_one_seed_and_unfinished_runs_are_said_to_be(tmp_path: Path) -> None:
    write_run_info(tmp_path, RunInfo(epochs=3))
    trees = dataclasses.replace(result("gbdt", "none", 0, 1, 0.7), dim=None)  # have no epochs
    append_results(tmp_path, [*rows(1), trees])
    page = write_report(tmp_path).read_text()
    assert "One seed only" in page
    assert "No verdict, for want of an interval" in page
    assert "Not finished, judged by the epochs so far: dlrm.none.d32.s0" in page
    assert "popularity.none.s0" not in page
    assert "gbdt.none.s0" not in page


def test_no_baseline_yet_compares_nothing(tmp_path: Path) -> None:
    append_results(tmp_path, [result("gpsd", "none", 0, 1, 0.7)])
    assert "dlrm has no result yet" in write_report(tmp_path).read_text()


def test_one_seed_with_predictions_has_an_interval_from_users(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels, users = generator.integers(0, 2, 4000), generator.integers(0, 900, 4000)
    base = labels + generator.normal(size=4000)
    for model, noise in (("dlrm", 1.5), ("gpsd", 0.1)):
        scores = (base + noise * generator.normal(size=4000)).astype(np.float32)
        row = result(model, "none", 0, 1, auc(labels, scores))
        append_results(tmp_path, [row])
        save_predictions(tmp_path, row.run, Predictions(labels, scores, users, np.arange(4000), 1))
    assert "1 better" in write_report(tmp_path).read_text()
    assert "better" in format_table(read_results(tmp_path), tmp_path)
    assert "no verdict" in format_table(read_results(tmp_path))


def test_the_terminals_table_is_aligned(tmp_path: Path) -> None:
    lines = format_table(list(rows(3))).splitlines()
    assert len(lines) == 5
    assert lines[0].split()[:4] == ["model", "strategy", "dim", "pretrained"]
    column = lines[0].index("verdict") + len("verdict")
    verdicts = [line[:column].split()[-1] for line in lines]
    assert verdicts == ["verdict", "worse", "baseline", "apart", "better"]
    assert "0.7667 ± 0.0002  +0.0200 [+0.0195 to +0.0205]" in lines[4]
    assert lines[4].split()[-5:] == ["1", "50", "40", "12,000", "1.23M"]


def test_a_wrong_results_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[{}]")
    with pytest.raises(ValueError, match=r"results\.json, row 0: the field 'model' is missing"):
        write_report(tmp_path)
