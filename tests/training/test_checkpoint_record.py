"""A checkpoint's record: it knows each of its files, and itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from torchrec_gr.training.checkpoint_record import (
    Checkpoint,
    CheckpointError,
    Checksum,
    Record,
    find_damage,
    read_chain,
    read_checkpoint,
    refuse_damage,
)

FILES = {"__0_0.distcp": bytes(range(256)) * 9000, ".metadata": b"index", "empty": b""}


def _write(path: Path, base: Checkpoint | None = None) -> Checkpoint:
    path.mkdir()
    for name, content in FILES.items():
        (path / name).write_bytes(content)
    files = {name: Checksum.of(path / name) for name in FILES}
    record = Record({"loss": 0.1 + 0.2}, files, ["model.t"], base and base.link())
    checksum = record.write(path)
    return Checkpoint(path, record, checksum)


def _damage(path: Path) -> list[str]:
    return [f"{file.name} {how}" for file, how in find_damage(read_chain(path))]


def test_a_record_comes_back_and_is_json(tmp_path: Path) -> None:
    written = _write(tmp_path / "step_1")
    read = read_checkpoint(tmp_path / "step_1")
    assert read.record.values == {"loss": 0.1 + 0.2}
    assert read.record.files == written.record.files
    assert (read.record.tables, read.record.base) == (["model.t"], None)
    assert read.checksum == written.checksum
    assert json.loads((tmp_path / "step_1" / "record.json").read_text())["version"] == 2
    assert _damage(tmp_path / "step_1") == []


def test_a_checksum_is_sha256_as_others_compute_it(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert Checksum.of(tmp_path / "abc") == Checksum(3, expected)


@pytest.mark.parametrize("name", FILES)
def test_every_change_of_a_file_is_found(tmp_path: Path, name: str) -> None:
    file = _write(tmp_path / "step_1").path / name
    content = FILES[name]
    for place in {0, len(content) // 2, len(content) - 1} if content else ():
        altered = bytearray(content)
        altered[place] ^= 1
        file.write_bytes(altered)
        assert _damage(file.parent) == [f"{name} was altered"]
    if content:
        file.write_bytes(content[:-1])
        assert _damage(file.parent) == [
            f"{name} is of {len(content) - 1} bytes, expected {len(content)}"
        ]
    file.write_bytes(content + b"\0")
    assert _damage(file.parent) == [
        f"{name} is of {len(content) + 1} bytes, expected {len(content)}"
    ]
    file.unlink()
    assert _damage(file.parent) == [f"{name} is missing"]


def test_a_stranger_among_the_files_is_found(tmp_path: Path) -> None:
    path = _write(tmp_path / "step_1").path
    (path / "__1_0.distcp").write_bytes(b"")
    (path / "folder").mkdir()
    assert _damage(path) == ["__1_0.distcp is none of its files", "folder is none of its files"]


def test_the_parts_of_several_processes_find_the_same_together(tmp_path: Path) -> None:
    path = _write(tmp_path / "step_1").path
    (path / "__0_0.distcp").write_bytes(b"")
    (path / "empty").unlink()
    chain = read_chain(path)
    for num_parts in (1, 2, 3, 5):
        parts = [find_damage(chain, part, num_parts) for part in range(num_parts)]
        assert sorted(fault for part in parts for fault in part) == sorted(find_damage(chain)) != []


def test_every_byte_of_the_record_is_covered(tmp_path: Path) -> None:
    file = _write(tmp_path / "step_1").path / "record.json"
    content = file.read_bytes()
    for place in range(len(content)):
        for bit in (1, 0x20, 0x80):
            altered = bytearray(content)
            altered[place] ^= bit
            file.write_bytes(altered)
            with pytest.raises(CheckpointError, match=r"step_1/record\.json"):
                read_checkpoint(file.parent)
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"step_1/record\.json"):
            read_checkpoint(file.parent)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"record\.json.*[Pp]ut back a good copy, or remove"):
        read_checkpoint(file.parent)


@pytest.mark.parametrize("content", ["{}", "[]", '{"global_step": 3, "loader": {}}'])
def test_a_record_of_the_time_before_checksums_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(CheckpointError, match="no checksum: it was written by another version"):
        read_checkpoint(tmp_path)


def test_a_chain_is_read_from_the_whole_one_on(tmp_path: Path) -> None:
    first = _write(tmp_path / "step_1")
    second = _write(tmp_path / "step_5", first)
    _write(tmp_path / "step_9", second)
    assert [part.path.name for part in read_chain(tmp_path / "step_9")] == [
        "step_1",
        "step_5",
        "step_9",
    ]
    assert [part.path.name for part in read_chain(tmp_path / "step_1")] == ["step_1"]


def test_a_base_that_is_missing_replaced_or_damaged_is_named(tmp_path: Path) -> None:
    first = _write(tmp_path / "step_1")
    second = _write(tmp_path / "step_5", first)
    last = _write(tmp_path / "step_9", second).path

    (tmp_path / "step_1" / "__0_0.distcp").write_bytes(b"")
    chain = read_chain(last)
    with pytest.raises(CheckpointError, match=r"step_1/__0_0\.distcp is of 0 bytes") as error:
        refuse_damage(chain, find_damage(chain))
    assert str(error.value).startswith(f"checkpoint {last} is damaged")
    assert all(f"{part.path}" in str(error.value).split("remove")[1] for part in chain)

    for file in (tmp_path / "step_1").iterdir():
        file.rename(tmp_path / file.name)
    (tmp_path / "step_1").rmdir()
    with pytest.raises(CheckpointError, match=r"step_5 builds on .*step_1, which is missing"):
        read_chain(last)
    again = _write(tmp_path / "step_1").path
    assert len(read_chain(last)) == 3  # the very same again
    Record({"loss": 1.0}, first.record.files).write(again)
    with pytest.raises(CheckpointError, match=r"step_5 builds on .*step_1, which has been replac"):
        read_chain(last)


def test_only_what_builds_on_the_damage_is_to_be_removed(tmp_path: Path) -> None:
    last = _write(tmp_path / "step_5", _write(tmp_path / "step_1")).path
    (last / "empty").unlink()
    chain = read_chain(last)
    with pytest.raises(CheckpointError, match=r"step_5/empty is missing") as error:
        refuse_damage(chain, find_damage(chain))
    assert str(error.value).endswith(f"remove {last} to go on from an earlier checkpoint")
