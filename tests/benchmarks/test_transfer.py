"""A transfer against loading a state dict: every way loads what it should, and is checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import transfer
from benchmarks.transfer import OURS, SHARDINGS, WAYS, Loaded, Size, raw_ids, target_numbers
from torchrec_gr.training.process_group import process_group

TINY = Size(num_rows=1_001, width=4, num_processes=1)


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    with process_group("cpu"):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the source in it."""
    folder = tmp_path_factory.mktemp("source")
    transfer._prepare(TINY, folder, "source", "")
    return folder


def test_four_fifths_of_the_ids_are_the_sources() -> None:
    numbers = target_numbers(1_000)
    assert len(np.unique(numbers)) == len(numbers) == 1_000
    assert (numbers < 1_000).sum() == 800
    assert (np.diff(numbers) == 1).sum() < 10
    ids = raw_ids(np.arange(1_200)).to_numpy()
    assert len(np.unique(ids)) == 1_200
    assert ids.min() >= 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_every_way_loads_and_says_what_it_took(way: str, sharding: str, folder: Path) -> None:
    transfer._load(TINY, folder, sharding, way)
    found = transfer._read(folder, sharding, way, 1)
    assert [type(part) for part in found] == [Loaded]
    assert found[0].seconds >= found[0].open_seconds >= 0
    assert found[0].held_bytes == 1_001 * 4 * 4


@pytest.mark.parametrize("way", WAYS)
def test_rows_that_are_not_what_they_should_be_are_noticed(way: str, folder: Path) -> None:
    model = transfer._model(TINY, "row_wise")
    vocabulary = transfer._vocabulary(target_numbers(1_000))
    transfer._load_once(model, folder, way, vocabulary)
    transfer._check(TINY, model, way)
    ((_, rows),) = transfer._held(model)
    source = np.append(0, target_numbers(1_000) + 1) if way == OURS else np.arange(1_001)
    place = int(np.flatnonzero(source < 1_001)[17])
    with torch.no_grad():
        rows[place] += 1
    with pytest.raises(AssertionError, match=f"{way}: rows are not"):
        transfer._check(TINY, model, way)


def test_figures_are_of_the_slowest_and_the_largest_process() -> None:
    ours = [Loaded(2.0, 0.5, 10, 100), Loaded(2.1, 0.4, 30, 100)]
    other = [Loaded(4.2, 0.0, 60, 100), Loaded(4.0, 0.0, 50, 100)]
    rows = transfer._rows(TINY, "row_wise", dict(zip(WAYS, (ours, other, other), strict=True)))
    assert [row["name"] for row in rows] == ["transfer_seconds", "transfer_peak_memory"] * 2
    assert [row["ratio"] for row in rows] == [2.0, 2.0] * 2
    assert rows[0]["case"]["sharding"] == "row_wise"
