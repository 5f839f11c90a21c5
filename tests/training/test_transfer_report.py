"""The report as people and programs read it."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest

from torchrec_gr.training.transfer_report import (
    ParameterTransfer,
    TableTransfer,
    TransferReport,
)

REPORT = TransferReport(
    "artefact runs/pretrain",
    (
        ParameterTransfer("emb.embeddings.item.weight", "resized", True, "from goods"),
        ParameterTransfer("body.bias", "loaded"),
        ParameterTransfer("head.weight", "left"),
    ),
    (
        TableTransfer("item", "goods", 20_000, 15_000, 0.987, 5_000, "mean", 12),
        TableTransfer("user", "people", 8, 8, None, 0, "keep", 0),
        TableTransfer("empty", "none", 0, 0, None, 0, "keep", 0),
    ),
    ("decoder.weight",),
)


def test_it_prints_tables_of_aligned_columns() -> None:
    assert str(REPORT).splitlines() == [
        "transferred from artefact runs/pretrain",
        "",
        "table  source    rows   found  of rows   of traffic  unknown  which got     "
        "source rows unused",
        "item   goods   20,000  15,000    75.0%        98.7%    5,000  the mean row  "
        "                12",
        "user   people       8       8   100.0%  not counted        0                "
        "                 0",
        "empty  none         0       0     0.0%  not counted        0                "
        "                 0",
        "",
        "status   frozen  parameter                   note",
        "resized  frozen  emb.embeddings.item.weight  from goods",
        "loaded           body.bias",
        "left             head.weight",
        "",
        "of the source, not used: decoder.weight",
    ]
    assert str(TransferReport("s")) == "transferred from s\n\nof the source, not used: nothing"


def test_programs_read_the_same() -> None:
    document = json.loads(REPORT.to_json())
    assert document["source"] == REPORT.source
    assert document["unused"] == ["decoder.weight"]
    assert document["parameters"][0] == {
        "name": "emb.embeddings.item.weight",
        "status": "resized",
        "frozen": True,
        "note": "from goods",
    }
    assert [table["share"] for table in document["tables"]] == [0.75, 1.0, 0.0]
    assert [table["traffic"] for table in document["tables"]] == [0.987, None, None]


def test_names_are_given_by_status() -> None:
    assert REPORT.names("loaded", "resized") == ["emb.embeddings.item.weight", "body.bias"]
    assert REPORT.names("left") == ["head.weight"]


def test_an_older_file_stays_whole_until_the_new_one_is(tmp_path: Path) -> None:
    path = tmp_path / "transfer.json"
    path.write_text("older")
    full = mock.patch.object(Path, "replace", side_effect=OSError("full"))
    with full, pytest.raises(OSError, match="full"):
        REPORT.save(path)
    assert path.read_text() == "older"
    REPORT.save(path)
    assert path.read_text() == REPORT.to_json()
    assert list(tmp_path.iterdir()) == [path]
