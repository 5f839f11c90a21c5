"""MTGR over two processes that hold different numbers of samples, in TorchRec's pipeline.

A batch teaches the same however its user windows are cut over ranks and into pieces.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.crossed_clicks import crossed_rows
from tests.models.mtgr_process_cases import (
    FORMS,
    build_ranker,
    open_log,
    run_in_two_processes,
    train,
    window_loader,
)
from tests.models.process_cases import Build, train_in_one, train_in_processes
from torchrec_gr.training.process_group import process_group

Results = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mtgr")
    rows = crossed_rows(80)
    rows = rows.assign(age=rows["user"] % 7)  # a user has one, so sequences are long
    rows.to_parquet(folder / "rows.parquet", row_group_size=7, index=False)
    return folder


@pytest.fixture(scope="module")
def by_one(folder: Path) -> Results:
    with process_group("cpu"):
        results = {form: train(form, folder, f"{form} by one") for form in ("whole", "pieces")}
        train("pieces", folder, "begun by one", stop=True)
    return results


@pytest.fixture(scope="module")
def by_two(folder: Path, by_one: Results) -> Results:
    return run_in_two_processes(folder)


def test_a_split_step_updates_every_weight_as_the_unsplit_one(folder: Path, tmp_path: Path) -> None:
    log = open_log(folder)
    whole = [[batch] for batch in window_loader(log, 0, 1)][:5]
    ranks = [list(window_loader(log, rank, 2)) for rank in range(2)]
    split = [list(of_step) for of_step in zip(*ranks, strict=True)][:5]
    counts = [[batch.source_rows.numel() for batch in of_step] for of_step in split]
    assert any(a != b for a, b in counts)
    assert [sum(c) for c in counts] == [batch.source_rows.numel() for (batch,) in whole]
    builds: dict[str, Build] = {f: partial(build_ranker, log.table_rows, f) for f in FORMS}
    in_two = train_in_processes(builds, dict.fromkeys(FORMS, split), tmp_path)
    for form, build in builds.items():
        in_one = train_in_one(build(), whole)
        before = build().state_dict()
        assert in_two[form].keys() == in_one.keys()
        for name, weight in in_one.items():
            torch.testing.assert_close(
                in_two[form][name],
                weight,
                rtol=1e-4,
                atol=1e-6,
                msg=lambda m, what=f"{form}, {name}": f"{what}: {m}",
            )
            assert weight.numel() == 0 or not torch.equal(weight, before[name]), name


def assert_close(ours: Results, theirs: Results) -> None:
    for key in ("losses", "examples", "weights"):
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-4)


def test_processes_and_pieces_train_to_the_numbers_of_one(by_one: Results, by_two: Results) -> None:
    losses = by_one["whole"]["losses"]
    assert losses[1] < losses[0]
    assert_close(by_one["pieces"], by_one["whole"])
    assert_close(by_two["pieces"], by_one["whole"])


def test_the_next_look_up_overlaps(by_one: Results, by_two: Results) -> None:
    for results in (by_one["whole"], by_one["pieces"], by_two["pieces"]):
        assert results["pipelined"] == ["embeddings"]


def test_a_run_goes_on_at_another_number_of_processes(
    folder: Path, by_one: Results, by_two: Results
) -> None:
    with process_group("cpu"):
        went_on = train("pieces", folder, "begun by two")
    for results in (went_on, by_two["went on"]):
        assert results["first_step"] == 2
        assert_close(results, by_one["whole"])
