"""Rows are put together from rectangles of any shape, and no more is read than is asked for."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from torchrec_gr.pretrained.artefact.record import Field, PretrainedError, Rectangle
from torchrec_gr.pretrained.artefact.saved_tensors import read_field
from torchrec_gr.pretrained.artefact.sound_files import SoundFiles

ROWS, WIDTH = 23, 10


def _grid(folder: Path, table: torch.Tensor) -> tuple[SoundFiles, Field]:
    """Columns cut at 3 and 4, each stretch's rows cut elsewhere, a file a rectangle."""
    cuts = {(0, 3): [0, 5, 9, 23], (3, 4): [0, 23], (4, 10): [0, 1, 2, 20, 23]}
    parts = []
    for (left, right), ends in cuts.items():
        for first, last in itertools.pairwise(ends):
            name = f"{first}-{left}"
            save_file({name: table[first:last, left:right].contiguous()}, folder / name)
            parts.append(Rectangle(name, name, first, last - first, left, right - left))
    parts.sort(key=lambda part: part.first_row)
    files = SoundFiles.of(folder, [part.file for part in parts])
    return files, Field("float32", (WIDTH,), tuple(parts))


def test_every_stretch_of_a_grid(tmp_path: Path) -> None:
    table = torch.randn(ROWS, WIDTH)
    files, field = _grid(tmp_path, table)
    for first in range(ROWS):
        for last in range(first, ROWS + 1):
            found = read_field(files, field, first, last - first)
            assert torch.equal(found, table[first:last])


def test_numbers_without_columns(tmp_path: Path) -> None:
    ids = torch.tensor([7, -(2**63), 2**63 - 1, 0, 5])
    save_file({"a": ids[:2].clone(), "b": ids[2:].clone()}, tmp_path / "ids")
    parts = (Rectangle("ids", "a", 0, 2, 0, 1), Rectangle("ids", "b", 2, 3, 0, 1))
    files, field = SoundFiles.of(tmp_path, ["ids"]), Field("int64", (), parts)
    assert torch.equal(read_field(files, field, 0, 5), ids)
    assert torch.equal(read_field(files, field, 1, 2), ids[1:3])


def test_only_files_that_hold_the_rows_are_opened(tmp_path: Path) -> None:
    table = torch.randn(ROWS, WIDTH)
    files, field = _grid(tmp_path, table)
    for name in ("0-0", "5-0", "0-4", "1-4", "20-4"):
        (tmp_path / name).unlink()
    assert torch.equal(read_field(files, field, 9, 11), table[9:20])
    with pytest.raises(PretrainedError, match="cannot read 20-4"):
        read_field(files, field, 9, 12)


def test_rows_that_nobody_wrote(tmp_path: Path) -> None:
    files, field = _grid(tmp_path, torch.randn(ROWS, WIDTH))
    short = Field("float32", (WIDTH,), field.rectangles[:-1])
    with pytest.raises(PretrainedError, match="does not know where rows 0 to 23"):
        read_field(files, short, 0, ROWS)
