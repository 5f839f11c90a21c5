"""Reading rows, and files that bring code: who made them can have made a record that fits."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path, PosixPath
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, TensorStorageMetadata

from tests.training.test_checkpoint import READERS, _trained
from torchrec_gr.embeddings.sharded_rows import sharded_rows
from torchrec_gr.training.checkpoint import CheckpointError, save_checkpoint
from torchrec_gr.training.checkpoint_reader import CheckpointReader
from torchrec_gr.training.checkpoint_record import RECORD, Checksum, read_checkpoint


def _seal(checkpoint: Path) -> None:
    """Gives altered files a record that fits, as who alters them on purpose can."""
    files = {p.name: Checksum.of(p) for p in checkpoint.iterdir() if p.name != RECORD}
    dataclasses.replace(read_checkpoint(checkpoint).record, files=files).write(checkpoint)


class _RunsCode:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> Any:
        return Path.touch, (self.touched,)


@pytest.mark.parametrize("read", READERS, ids=["load_checkpoint", "read_weights"])
def test_an_index_that_brings_code_runs_none(tmp_path: Path, read: Any) -> None:
    model, optimizer = _trained("rowwise_adagrad")
    checkpoint = save_checkpoint(tmp_path, 1, model, optimizer, {})
    touched = tmp_path / "touched"
    index = pickle.loads((checkpoint / ".metadata").read_bytes())
    index.planner_data = _RunsCode(touched)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(index))
    _seal(checkpoint)
    with pytest.raises(CheckpointError, match="made to run code"):
        read(checkpoint, model, optimizer)
    assert not touched.exists()


class _Attribute:
    """Unpickles into an attribute of something."""

    def __init__(self, of: Any, name: str) -> None:
        self.of, self.name = of, name

    def __reduce__(self) -> Any:
        return getattr, (self.of, self.name)


def test_an_index_of_an_older_python_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 3.11.4 a member of an enumeration is pickled as an attribute of it."""
    model, optimizer = _trained("rowwise_adagrad")
    with monkeypatch.context() as older:
        older.setattr(
            _MEM_FORMAT_ENCODING,
            "__reduce_ex__",
            lambda self, _: (getattr, (type(self), self.name)),
        )
        checkpoint = save_checkpoint(tmp_path, 1, model, optimizer, {})
    assert b"getattr" in (checkpoint / ".metadata").read_bytes()
    for read in READERS:
        read(checkpoint, model, optimizer)


@pytest.mark.parametrize("of", [(PosixPath, "touch"), (TensorStorageMetadata, "__init__")])
def test_an_index_that_asks_for_any_other_attribute_is_refused(tmp_path: Path, of: Any) -> None:
    model, optimizer = _trained("rowwise_adagrad")
    checkpoint = save_checkpoint(tmp_path, 1, model, optimizer, {})
    index = pickle.loads((checkpoint / ".metadata").read_bytes())
    index.planner_data = _Attribute(*of)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(index))
    _seal(checkpoint)
    for read in READERS:
        with pytest.raises(CheckpointError, match="made to run code"):
            read(checkpoint, model, optimizer)


@pytest.mark.parametrize("read", READERS, ids=["load_checkpoint", "read_weights"])
def test_a_tensor_file_that_brings_code_runs_none(tmp_path: Path, read: Any) -> None:
    model, optimizer = _trained("rowwise_adagrad")
    checkpoint = save_checkpoint(tmp_path, 1, model, optimizer, {})
    touched = tmp_path / "touched"
    [data] = checkpoint.glob("*.distcp")
    code = pickle.dumps(_RunsCode(touched))
    data.write_bytes(code + data.read_bytes()[len(code) :])
    index = pickle.loads((checkpoint / ".metadata").read_bytes())
    for place in index.storage_data.values():
        place.offset = 0
    (checkpoint / ".metadata").write_bytes(pickle.dumps(index))
    _seal(checkpoint)
    with pytest.raises(CheckpointError, match="cannot read checkpoint"):
        read(checkpoint, model, optimizer)
    assert not touched.exists()


@pytest.mark.parametrize("read", READERS, ids=["load_checkpoint", "read_weights"])
def test_files_that_no_save_wrote_are_an_error_that_names_them(tmp_path: Path, read: Any) -> None:
    model, optimizer = _trained("rowwise_adagrad")
    checkpoint = save_checkpoint(tmp_path, 1, model, optimizer, {})
    [data] = checkpoint.glob("*.distcp")
    data.write_bytes(data.read_bytes()[:200])
    _seal(checkpoint)
    with pytest.raises(CheckpointError, match=r"cannot read checkpoint .*step_1"):
        read(checkpoint, model, optimizer)
    (checkpoint / ".metadata").write_bytes(b"\x80\x04")
    _seal(checkpoint)
    with pytest.raises(CheckpointError, match=r"cannot read the index .*\.metadata"):
        read(checkpoint, model, optimizer)


@pytest.mark.parametrize("tail", [(), (3,), (0,), (2, 2)])
@pytest.mark.parametrize("longest", [1, 4, 100])
def test_any_stretch_of_rows_is_read(tmp_path: Path, tail: tuple[int, ...], longest: int) -> None:
    rows = torch.rand(11, *tail)
    state = {"rows": sharded_rows(rows.split(longest), rows[:0]), "whole": rows}
    state["none"] = sharded_rows([], rows[:0])
    dcp.save(state, storage_writer=dcp.FileSystemWriter(tmp_path))
    reader = CheckpointReader(tmp_path)
    for name in ("rows", "whole"):
        for start in range(12):
            for num_rows in range(12 - start):
                read = reader.rows(name, start, num_rows)
                assert torch.equal(read, rows[start : start + num_rows])
        pieces = reader.pieces(name, 4)
        assert torch.equal(torch.cat([reader.rows(name, *piece) for piece in pieces]), rows)
        assert max(num_rows for _, num_rows in pieces) <= 4
    assert reader.pieces("none", 4) == []
    assert reader.rows("none", 0, 0).shape == rows[:0].shape
