"""The one command: which parts it has, and the file that it writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.embeddings.__main__ import PARTS, main


def test_every_file_that_measures_is_a_part() -> None:
    folder = Path(__file__).parents[3] / "benchmarks" / "embeddings"
    measuring = {
        file.stem for file in folder.glob("*.py") if "\ndef measure(" in file.read_text("utf-8")
    }
    assert set(PARTS) == measuring
    for part in PARTS.values():
        assert type(part.QUICK) is type(part.FULL) is part.Plan


def test_chosen_parts_are_measured_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.json"
    arguments = ["x", "--quick", "--only", "collisions", "--json", str(path), "--threads", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    main()
    written = json.loads(path.read_text("utf-8"))
    assert written["machine"]["torch"] == torch.__version__
    assert [row["name"] for row in written["rows"]][:1] == ["multi_hash_colliding_ids"]
    assert "share all sub-rows" in capsys.readouterr().out


def test_an_unknown_part_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--only", "maps"])
    with pytest.raises(SystemExit):
        main()
    assert "id_map" in capsys.readouterr().err
