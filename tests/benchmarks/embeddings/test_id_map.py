"""The maps of ids, on few ids: what is compared, printed and written."""

from __future__ import annotations

import pytest
import torch

from benchmarks.embeddings import id_map
from benchmarks.embeddings.id_map import (
    Dict,
    ManagedCollision,
    Plan,
    SlotMap,
    require_equal_counts,
    require_one_to_one,
)
from benchmarks.embeddings.traffic import raw_ids

TINY = Plan(((300, 1, (1, 2)), (200, 2, (2,))), num_batches=2, batch_size=100, seconds=0.0)


def test_rows_of_each_case(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    rows = id_map.measure(TINY)
    assert torch.get_num_threads() == threads
    assert [row["name"] for row in rows[:6]] == [
        "slot_map_vs_mch_remap",
        "slot_map_vs_mch_profile",
        "slot_map_vs_mch_profile",
        "slot_map_vs_dict",
        "slot_map_ids_per_second_300",
        "slot_map_counted_ids_per_second_300",
    ]
    assert [row["case"]["threads"] for row in rows] == [1] * 6 + [2] * 5
    for row in rows:
        if "ratio" in row:
            assert row["ratio"] == pytest.approx(row["other"] / row["ours"])
    assert "profile + remap, interval 2" in capsys.readouterr().out


def test_full_sizes_have_the_names_that_are_asked_for() -> None:
    sizes = {num_ids for num_ids, _, _ in id_map.FULL.cases}
    assert {id_map.size_name(size) for size in sizes} == {"1m", "50m"}


def test_maps_agree_with_each_other_and_with_a_dict() -> None:
    ids = raw_ids(torch.arange(50))
    batches = [ids[[3, 3, 49, 0]], ids[[7, 3]]]
    maps = [SlotMap(ids), ManagedCollision(ids, 1), Dict(ids)]
    for one in maps:
        found = one.find(batches)
        require_one_to_one("it", batches, found)
        assert [len(part) for part in found] == [4, 2]
    assert [part.tolist() for part in maps[2].find(batches)] == [[3, 3, 49, 0], [7, 3]]


def test_a_map_that_is_not_one_to_one_is_found_out() -> None:
    batches = [torch.tensor([5, 6]), torch.tensor([5])]
    require_one_to_one("it", batches, [torch.tensor([1, 0]), torch.tensor([1])])
    for wrong in ([1, 1, 1], [1, 0, 2]):
        with pytest.raises(RuntimeError, match="it does not map each id"):
            require_one_to_one("it", batches, torch.tensor(wrong).split([2, 1]))


def test_counts_that_differ_are_found_out() -> None:
    ids = raw_ids(torch.arange(2000))
    ours, other = SlotMap(ids), ManagedCollision(ids, 2)
    batches = [ids[[1500, 1, 1]], ids[[1999, 1500]]]
    ours.count(batches)
    other.count(batches)
    require_equal_counts(ours, other, ids)
    ours.count(batches[:1])
    with pytest.raises(RuntimeError, match="count differently"):
        require_equal_counts(ours, other, ids)
