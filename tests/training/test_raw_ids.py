"""Raw ids: which row one has, which stand for two, and what they hash to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from torchrec_gr.schema.vocabulary import Vocabulary
from torchrec_gr.training.raw_ids import (
    as_raw_ids,
    examples,
    first_null,
    hashed,
    index_of,
    require_distinct,
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([5, None, -7], pa.array([5, None, -7])),
        (["a", None], pa.array(["a", None], pa.large_string())),
        (np.array([3, 1], np.int32), pa.array([3, 1])),
        (np.array(["x", "y"]), pa.array(["x", "y"], pa.large_string())),
        (np.array([1.0, np.nan]), pa.array([1, None])),
        (pa.chunked_array([["a"], ["b"]]), pa.array(["a", "b"], pa.large_string())),
        (Vocabulary("t", pa.array([9, 8]), np.zeros(3, np.int64)), pa.array([None, 9, 8])),
        ([], pa.array([], pa.int64())),
    ],
)
def test_ids_of_any_kind_become_one_of_two(given: Any, expected: pa.Array) -> None:
    found = as_raw_ids(given, "table 'item'")
    assert (found.type, found.to_pylist()) == (expected.type, expected.to_pylist())


@pytest.mark.parametrize("given", [[1.5], [1, "a"], [[1]], [2**63], [2**64], [object()]])
def test_what_is_no_id_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="table 'item': raw ids must be integers or"):
        as_raw_ids(given, "table 'item'")


def _many(num: int, kind: str) -> list[Any]:
    """Different ids, some null, of all 64 bits or strings."""
    values = [((i * 0x9E3779B97F4A7C15) % 2**64) - 2**63 for i in range(num)]
    ids: list[Any] = list(map(str, values)) if kind == "strings" else list(values)
    return [None if i % (num // 7 + 2) == 1 else raw_id for i, raw_id in enumerate(ids)]


@pytest.mark.parametrize("kind", ["integers", "strings"])
@pytest.mark.parametrize("num", [1, 12, 13, 1000, 65_536, 140_000])
def test_the_index_finds_what_a_dict_finds(kind: str, num: int) -> None:
    ids, others = _many(num, kind), _many(num + 500, kind)[num // 2 :]
    row_of = {raw_id: row for row, raw_id in enumerate(ids) if raw_id is not None}
    asked = as_raw_ids([*others, *ids[:100], None], "asked")
    found = index_of(as_raw_ids(ids, "ids")).find(asked)
    assert found.tolist() == [row_of.get(raw_id, -1) for raw_id in asked.to_pylist()]
    # Parts of an array begin in the middle of its memory.
    later = index_of(as_raw_ids(ids, "ids").slice(num // 2)).find(asked.slice(3))
    rows = [row_of.get(raw_id, -1) - num // 2 for raw_id in asked.to_pylist()[3:]]
    assert later.tolist() == [max(row, -1) for row in rows]


@pytest.mark.parametrize("none", [pa.array([], pa.int64()), pa.array([], pa.large_string())])
def test_an_index_of_nothing_finds_nothing(none: pa.Array) -> None:
    other = as_raw_ids([1, None] if none.type == pa.int64() else ["1", None], "ids")
    assert index_of(none).find(other).tolist() == [-1, -1]
    assert index_of(other).find(none).tolist() == []
    assert index_of(other.slice(1)).find(other).tolist() == [-1, -1]


@pytest.mark.parametrize("kind", ["integers", "strings"])
@pytest.mark.parametrize("places", [(0, 1), (0, 9), (8, 9), (2, 7)])
def test_an_id_that_stands_for_two_rows_is_named(kind: str, places: tuple[int, int]) -> None:
    """Whichever of the rows a process holds, as long as one of them is among its own."""
    ids: list[Any] = list(range(10, 20))
    ids[places[1]] = ids[places[0]]
    whole = as_raw_ids(ids if kind == "integers" else list(map(str, ids)), "ids")
    name = repr(whole[places[0]].as_py())
    for first, num in ((0, 10), (0, 5), (5, 5)):
        index = index_of(whole.slice(first, num))
        if any(first <= place < first + num for place in places):
            with pytest.raises(ValueError, match=f"table 't': .* more than one row, .* {name}"):
                require_distinct(whole, index, first, "table 't'")
        else:
            require_distinct(whole, index, first, "table 't'")


def test_rows_without_an_id_may_be_many() -> None:
    ids = as_raw_ids([None, 4, None, 5], "ids")
    require_distinct(ids, index_of(ids), 0, "table 't'")
    assert first_null(ids) == 0
    assert first_null(ids.slice(1)) == 1
    assert first_null(ids.slice(3)) == -1
    assert examples(ids) == "4, 5"
    assert examples(ids.slice(0, 1)) == "none"


def test_a_hash_follows_from_the_id_alone_and_spreads() -> None:
    for ids in (as_raw_ids(range(4000), "ids"), as_raw_ids(list(map(str, range(4000))), "ids")):
        whole = hashed(ids, 10)
        assert torch.equal(hashed(ids.slice(17, 100), 10), whole[17:117])
        counts = whole.bincount(minlength=10)
        assert len(counts) == 10
        assert counts.min() > 300
