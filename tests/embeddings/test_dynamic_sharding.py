"""Dynamic collections over several processes: as over one, whatever each of them holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.embeddings.sharded_cases import FROZEN, results_of

SIZES = (2, 4)
Results = dict[int, dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Results:
    work_dir: Path = tmp_path_factory.mktemp("sharded")
    return {size: results_of(size, work_dir) for size in (1, *SIZES)}


def assert_same(records: dict[str, Any], expected: dict[str, Any]) -> None:
    assert records.keys() == expected.keys()
    for name, ids in expected.items():
        assert records[name].keys() == ids.keys(), name
        for i, value in ids.items():
            torch.testing.assert_close(records[name][i], value)


@pytest.mark.parametrize("size", SIZES)
def test_every_id_has_what_it_has_in_one_process(found: Results, size: int) -> None:
    assert_same(found[size]["records"], found[1]["records"])
    assert any(len(ids) > 30 for ids in found[1]["records"].values())


@pytest.mark.parametrize("size", SIZES)
def test_evaluation_reads_alike(found: Results, size: int) -> None:
    torch.testing.assert_close(found[size]["probe"], found[1]["probe"])
    assert (found[1]["probe"][0][-1] == 0).all()  # an unknown id


@pytest.mark.parametrize("size", SIZES)
def test_small_ids_are_spread(found: Results, size: int) -> None:
    held = found[size]["held"]
    assert sum(held) == found[1]["held"][0]
    assert max(held) < 1.6 * sum(held) / size


@pytest.mark.parametrize("size", [1, *SIZES])
def test_state_dict_holds_it_all(found: Results, size: int) -> None:
    assert_same(found[size]["loaded"], found[size]["records"])


@pytest.mark.parametrize("size", [1, *SIZES])
def test_deduplication_changes_the_bytes_alone(found: Results, size: int) -> None:
    assert_same(found[size]["not deduplicated"], found[size]["records"])
    with_it, without = found[size]["bytes"]
    assert with_it == without == 0 if size == 1 else 0 < with_it < without


@pytest.mark.parametrize("size", SIZES)
def test_looked_up_by_sender_ids_are_counted_alike(found: Results, size: int) -> None:
    for name, ids in found[1]["records"].items():
        counts = {i: value if isinstance(value, list) else value[2][:1] for i, value in ids.items()}
        by_sender = found[size]["counts by sender"][name]
        assert by_sender.keys() == counts.keys()
        for i, value in counts.items():
            assert by_sender[i][0] == value[0]


@pytest.mark.parametrize("size", [1, *SIZES])
def test_a_frozen_table_stands_still_and_goes_on_when_thawed(found: Results, size: int) -> None:
    """As if the steps in which it was frozen had not been; the others, as if nothing were."""
    before, frozen, thawed = (found[size][name] for name in ("before", "frozen", "thawed"))
    for name, ids in before.items():
        assert all(map(_equal, ids.items(), frozen[name].items())) == (name in FROZEN)
        expected = found[size]["skipping" if name in FROZEN else "through"][name]
        assert thawed[name].keys() == expected.keys()
        assert all(_equal((i, value), (i, thawed[name][i])) for i, value in expected.items())


@pytest.mark.parametrize("size", SIZES)
def test_no_gradients_of_frozen_tables_are_exchanged(found: Results, size: int) -> None:
    frozen, trained = found[size]["frozen bytes"]
    assert frozen < trained


def _equal(one: tuple[int, Any], other: tuple[int, Any]) -> bool:
    """Whether two ids and what they have are the same to the last bit."""
    if isinstance(one[1], list):
        return one == other
    (first, (*tensors, seen)), (second, (*others, seen_there)) = one, other
    return (first, seen) == (second, seen_there) and all(
        torch.equal(a, b) for a, b in zip(tensors, others, strict=True)
    )
