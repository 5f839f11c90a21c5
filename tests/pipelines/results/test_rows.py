"""results.json: what is written is read back, what is wrong is named, nothing is lost."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.results.rows import ResultRow, append_results, read_results, write_atomically


def result(**changes: Any) -> ResultRow:
    row = ResultRow(
        model="gpsd",
        strategy="sparse-freeze",
        seed=1,
        epoch=2,
        auc=0.75,
        train_seconds=30.0,
        parameters=1000,
        dim=64,
        pretrain="all users",
        gauc=0.6,
        pretrain_seconds=20.0,
        frozen=("item",),
        metrics={"auc_popularity_matched": 0.7},
    )
    return dataclasses.replace(row, **changes)


def test_rows_are_read_back_as_written(tmp_path: Path) -> None:
    rows = [
        result(),
        result(gauc=None, gauc_refused="histories stream", ne=np.float32(0.5), seed=np.int64(2)),
        ResultRow("popularity", "none", 0, 0, 0.61, 0, 0, gauc_refused="no users"),
    ]
    assert append_results(tmp_path, rows) == rows
    assert read_results(tmp_path) == rows


def test_the_file_is_a_list_of_flat_objects_with_the_promised_fields(tmp_path: Path) -> None:
    append_results(tmp_path, [result()])
    (values,) = json.loads((tmp_path / "results.json").read_text())
    promised = "model strategy seed epoch auc gauc ne log_loss train_seconds examples_per_second"
    assert {*promised.split(), "parameters", "auc_popularity_matched"} <= values.keys()
    assert values["auc_popularity_matched"] == 0.7
    assert values["frozen"] == ["item"]


def test_appending_adds_and_replaces_by_run_and_epoch(tmp_path: Path) -> None:
    append_results(tmp_path, [result(epoch=2), result(epoch=1)])
    append_results(tmp_path, [result(seed=0, epoch=1), result(epoch=2, auc=0.8)])
    merged = append_results(tmp_path, [result(epoch=1, pretrain="training users")])
    assert [(r.seed, r.epoch, r.auc, r.pretrain) for r in merged] == [
        (1, 1, 0.75, "all users"),
        (1, 2, 0.8, "all users"),
        (0, 1, 0.75, "all users"),
        (1, 1, 0.75, "training users"),
    ]
    assert read_results(tmp_path) == merged


def test_no_file_is_no_rows(tmp_path: Path) -> None:
    assert read_results(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auc": None}, "auc must be a number, got None"),
        ({"auc": "0.7"}, "auc must be a number, got '0.7'"),
        ({"auc": 1.5}, "auc must be within 0 and 1"),
        ({"ne": float("nan")}, "ne must be finite, got nan"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"epoch": True}, "epoch must be a whole number, got True"),
        ({"epoch": -1}, "epoch must not be negative"),
        ({"model": ""}, "model must be a word"),
        ({"gauc": None}, "say why in gauc_refused"),
        ({"train_seconds": 10.0}, "train_seconds counts pretraining"),
        ({"frozen": "item"}, "frozen must be a list of table names"),
        ({"metrics": {"auc": 0.5}}, "metrics repeat the field 'auc'"),
        ({"metrics": {"hit_rate": "high"}}, "hit_rate must be a number"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        result(**changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "is not JSON"),
        ("{}", "must hold a list of rows, not dict"),
        ("[3]", "row 0: must be an object, not int"),
        ('[{"model": "dlrm"}]', "row 0: the field 'strategy' is missing"),
    ],
)
def test_a_damaged_file_is_named_and_left_as_it_is(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        append_results(tmp_path, [result()])
    assert str(path) in str(error.value)
    assert path.read_text() == content


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_every_run_has_a_file_name_of_its_own() -> None:
    rows = [
        result(),
        result(seed=2),
        result(dim=32),
        result(dim=None),
        result(pretrain=None),
        result(strategy="none"),
        result(model="my.package:build"),
    ]
    names = [row.run.name for row in rows]
    assert len(set(names)) == len(names)
    assert names[0] == "gpsd.sparse-freeze.d64.all_users.s1"
    assert all("/" not in name and ":" not in name for name in names)
