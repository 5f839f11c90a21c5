"""Which raw id gets which row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrec_gr.schema import Table, Vocabulary, VocabularyBuilder
from torchrec_gr.schema import vocabulary as vocabulary_file


def build(*pieces: object, min_count: int = 1, previous: Vocabulary | None = None) -> Vocabulary:
    builder = VocabularyBuilder(Table("item", min_count))
    for piece in pieces:
        builder.add(pa.array(piece))
    return builder.build(previous)


@pytest.mark.parametrize("ids", [[30, 10, 30, 20], ["c", "a", "c", "b"]])
def test_ids_get_rows_in_sorted_order_and_unknown_or_null_ones_row_0(ids: list) -> None:
    vocabulary = build(ids, ids[:1])
    assert vocabulary.raw_ids.tolist() == sorted(set(ids))
    assert vocabulary.num_rows == 4
    assert vocabulary.counts.tolist() == [0, 1, 1, 3]
    unknown = 99 if isinstance(ids[0], int) else "zz"
    rows = vocabulary.rows(pa.array([*ids, None, unknown]))
    assert rows.tolist() == [3, 1, 3, 2, 0, 0]
    assert rows.dtype == np.int64


def test_numpy_ids_of_any_width_and_float_or_categorical_ids_are_the_same_ids() -> None:
    vocabulary = build([7, 8])
    for raw in (
        np.array([8, 7], np.int16),
        np.array([8, 7], np.uint64),
        np.array([8.0, 7.0]),
        pa.chunked_array([[8], [7]]),
        pa.array([8, 7]).dictionary_encode(),
    ):
        assert vocabulary.rows(raw).tolist() == [2, 1]
    assert vocabulary.rows(np.array([8.0, np.nan])).tolist() == [2, 0]
    assert build(["a"]).rows(pa.array(["a", "b", None]).dictionary_encode()).tolist() == [1, 0, 0]


def test_rare_and_null_ids_are_counted_in_row_0() -> None:
    vocabulary = build([5, 5, 6, None], [6, 7, None], min_count=2)
    assert vocabulary.raw_ids.tolist() == [5, 6]
    assert vocabulary.counts.tolist() == [3, 2, 2]


@pytest.mark.parametrize("ids", [[[3, 9, 9], [9, 1, 4, 1]], [["c", "z", "z"], ["z", "a", "d"]]])
def test_extending_keeps_every_old_row_and_appends_the_new_ids(ids: list) -> None:
    old = build(ids[0])
    new = build(ids[1], previous=old)
    assert new.raw_ids[: old.num_rows - 1].tolist() == old.raw_ids.tolist()
    added = sorted(set(ids[1]) - set(ids[0]))
    assert new.raw_ids[old.num_rows - 1 :].tolist() == added
    assert new.rows(pa.array(ids[0])).tolist() == old.rows(pa.array(ids[0])).tolist()
    assert new.counts.sum() == len(ids[1]), "counts are of the new training window alone"


def test_extending_by_nothing_and_from_nothing() -> None:
    old = build(["a", "b"])
    assert build(previous=old).raw_ids.tolist() == ["a", "b"]
    assert build(["x"], previous=build()).raw_ids.tolist() == ["x"]
    assert build().rows(np.array([1, 2])).tolist() == [0, 0]


@pytest.mark.parametrize("ids", [[4, 2, None], ["é", "b", None], []])
def test_a_saved_vocabulary_is_read_back_equal(ids: list, tmp_path: Path) -> None:
    saved = build(ids)
    saved.save(tmp_path / "v.parquet")
    read = Vocabulary.load(tmp_path / "v.parquet")
    assert read.table == "item"
    assert read.raw_ids.tolist() == saved.raw_ids.tolist()
    assert read.counts.tolist() == saved.counts.tolist()
    assert read.fingerprint() == saved.fingerprint()
    assert [p.name for p in tmp_path.iterdir()] == ["v.parquet"], "no partial file is left"


def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    build([1, 2]).save(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"v\.parquet is not a vocabulary"):
        Vocabulary.load(path)


def test_the_fingerprint_tells_row_orders_apart() -> None:
    assert build([1, 2]).fingerprint() != build([1], previous=build([2])).fingerprint()


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([[1], ["a"]], "table 'item' has int64 ids, but column 'item' has large_string"),
        ([[3, -1]], "negative id -1"),
        ([[0.5]], "column 'item' has type double: ids are integers or strings"),
        ([[[1, 2]]], "column 'item' has type list"),
    ],
)
def test_ids_that_cannot_be_are_errors(pieces: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(*pieces)


def test_looking_up_or_extending_with_ids_of_another_type_is_an_error() -> None:
    with pytest.raises(ValueError, match="has int64 ids, but column 'item_id' has large_string"):
        build([1]).rows(pa.array(["a"]), "item_id")
    with pytest.raises(ValueError, match="has large_string ids, but column 'of the new log'"):
        build([1], previous=build(["a"]))


@given(st.lists(st.lists(st.integers(0, 20)), max_size=8))
def test_counting_does_not_depend_on_the_pieces(pieces: list[list[int]]) -> None:
    together = [i for piece in pieces for i in piece]
    in_pieces = build(*(np.array(piece, np.int64) for piece in pieces), min_count=2)
    at_once = build(np.array(together, np.int64), min_count=2)
    assert in_pieces.raw_ids.tolist() == at_once.raw_ids.tolist()
    assert in_pieces.counts.tolist() == at_once.counts.tolist()


def test_merging_while_counting_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = np.random.default_rng(0).integers(0, 50, (20, 30))
    at_once = build(pieces.reshape(-1))
    monkeypatch.setattr(vocabulary_file, "_MERGE_AT", 40)
    merged = build(*pieces)
    assert merged.raw_ids.tolist() == at_once.raw_ids.tolist()
    assert merged.counts.tolist() == at_once.counts.tolist()
