"""The DCAT benchmark: what it draws and measures, and that no time stands beside a wrong result."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.models import dcat, dcat_ways
from benchmarks.models.dcat import Plan, Work, measure, named, peaks_of
from benchmarks.models.dcat_ways import (
    Case,
    Log,
    Model,
    Way,
    draw_log,
    encode,
    gradients,
    scores,
    trained,
)
from torchrec_gr.ops.group_requests import group_requests

TINY = Plan(
    scoring=(Case(2, 1, 4), Case(1, 3, 4), Case(1, 2, 7)),
    training=(Case(2, 2, 4),),
    history=4,
    seconds=0.0,
)


@pytest.fixture
def in_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is measured in this process: a new one takes seconds to start."""

    def call(function: Callable[[Work, Case], dict[Way, int]], *given: object) -> dict[Way, int]:
        return function(*given)

    monkeypatch.setattr(dcat, "in_own_process", call)


def test_a_log_holds_each_history_so_often_and_mixed() -> None:
    log = draw_log(Case(5, 8, 6))
    assert log.history.shape == (40, 6, 3)
    assert log.items.shape == (40,)
    offsets = torch.arange(41) * 6
    _, inverse = group_requests(log.history.view(-1, 3), offsets)
    assert inverse.bincount().tolist() == [8] * 5
    assert not torch.equal(inverse, inverse.sort().values)
    assert all(torch.equal(a, b) for a, b in zip(log, draw_log(Case(5, 8, 6)), strict=True))


@pytest.mark.parametrize("num_at_once", [1, 2, 64])
def test_all_ways_give_the_same_in_the_order_of_the_log(num_at_once: int) -> None:
    log = draw_log(Case(3, 4, 6))
    torch.manual_seed(0)
    model = Model(6)
    alone = torch.cat([scores(model, "row by row", Log(*pair), 1) for pair in _one_by_one(log)])
    for way in ("DCAT", "row by row", "padded SDPA"):
        vectors = scores(model, way, log, num_at_once)
        torch.testing.assert_close(vectors, alone, atol=1e-5, rtol=1e-5)
        assert not vectors.requires_grad
    table = model.embeddings.embeddings["item"].weight
    assert torch.equal(alone[:, dcat_ways.DIM :], table[log.items])


def _one_by_one(log: Log) -> list[tuple[Tensor, Tensor]]:
    return list(zip(log.history.split(1), log.items.split(1), strict=True))


@pytest.mark.parametrize("num_at_once", [2, 64])
def test_all_ways_give_every_gradient_there_is(num_at_once: int) -> None:
    log = draw_log(Case(3, 4, 6))
    torch.manual_seed(0)
    model = Model(6)
    weights = dcat_ways.loss_weights(len(log.items))
    loss = (scores_with_gradients(model, log) * weights).sum()
    expected = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    reached = [
        (parameter, gradient)
        for parameter, gradient in zip(model.parameters(), expected, strict=True)
        if gradient is not None and gradient.any()
    ]
    assert {id(parameter) for parameter, _ in reached} == {id(p) for p in trained(model)}
    by_parameter = {id(parameter): gradient for parameter, gradient in reached}
    for way in ("DCAT", "row by row", "padded SDPA"):
        for parameter, ours in zip(
            trained(model), gradients(model, way, log, num_at_once), strict=True
        ):
            exact = by_parameter[id(parameter)]
            assert (ours - exact).abs().max() <= 1e-4 * exact.abs().max()


def scores_with_gradients(model: Model, log: Log) -> Tensor:
    ((_, vectors),) = encode(model, "row by row", log, len(log.items))
    return vectors


@pytest.mark.usefixtures("in_here")
def test_every_case_has_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    rows = measure(TINY)
    times = [row for row in rows if "ratio" in row]
    assert [row["name"] for row in times] == [
        "scoring_1_1",
        "scoring_1_1_padded",
        "scoring_1_3",
        "scoring_1_3_padded",
        "scoring_1_2_7",
        "scoring_1_2_7_padded",
        "training_1_2",
        "training_1_2_padded",
        "cached_1_100",
        "cached_1_100_7",
    ]
    for row in times:
        assert row["ratio"] == row["other"] / row["ours"] > 0
        assert 0 <= row["difference"] < 1e-4
    peaks = [row for row in rows if "value" in row]
    assert len(peaks) == 4 * 3
    assert {row["name"] for row in peaks} == {
        f"{row['name']}_peak_bytes" for row in times[:8] if "padded" not in row["name"]
    }
    assert "row by row" in capsys.readouterr().out


@pytest.mark.usefixtures("in_here")
@pytest.mark.parametrize("broken", ["scores", "gradients"])
def test_a_way_that_computes_another_thing_is_found_out(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: Work = "scoring" if broken == "scores" else "training"
    whole = dcat.WHAT[work]

    def wrong(model: Model, way: Way, log: Log, num_at_once: int) -> dcat.Result:
        result = whole(model, way, log, num_at_once)
        if way == "row by row":
            (result[0] if isinstance(result, list) else result).mul_(1.001)
        return result

    monkeypatch.setattr(dcat, "WHAT", {**dcat.WHAT, work: wrong})
    with pytest.raises(RuntimeError, match="results differ by"):
        measure(TINY)


def test_memory_grows_with_the_rows_of_a_pass_and_not_with_duplicates() -> None:
    peaks = dcat.in_own_process(peaks_of, "scoring", Case(1, 60, 100))
    assert peaks["row by row"] > 5 * peaks["DCAT"]
    assert peaks["padded SDPA"] > 5 * peaks["DCAT"]


def test_the_baselines_memory_is_left_out_where_it_is_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dcat, "_MOST_TOKENS", 11)
    assert list(peaks_of("scoring", Case(1, 3, 4))) == ["DCAT"]


def test_the_issues_rows_are_measured() -> None:
    names = {
        named(f"{work}_1_{case.num_candidates}", case.num_history, dcat.FULL)
        for work in ("scoring", "training")
        for case in getattr(dcat.FULL, work)
    }
    asked = {"scoring_1_1", "scoring_1_10", "scoring_1_100", "scoring_1_1000", "training_1_16"}
    assert asked | {"training_1_1", "scoring_1_1000_1024", "training_1_16_1024"} <= names


@pytest.mark.usefixtures("in_here")
def test_figures_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dcat, "QUICK", TINY)
    threads = str(torch.get_num_threads())
    path = str(tmp_path / "figures.json")
    monkeypatch.setattr(sys, "argv", ["dcat", "--quick", "--json", path, "--threads", threads])
    dcat.main()
    document = json.loads(Path(path).read_text())
    assert document["machine"]["threads"] == torch.get_num_threads()
    assert "scoring_1_1" in {row["name"] for row in document["rows"]}
    assert "DCAT" in capsys.readouterr().out
