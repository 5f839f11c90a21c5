"""What is not as it was saved is refused, by name, before anything of it is used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pretrained.artefact.artefact_toy import contents, require_equal, save
from tests.training.toy import toy_model
from torchrec_gr.pretrained import PretrainedError, has_artefact, load_pretrained
from torchrec_gr.training.checksum import Checksum
from torchrec_gr.training.sealed_json import read_sealed, write_sealed

FILES = [
    "README.md",
    "artefact.json",
    "dense-00000.safetensors",
    "schema.yaml",
    "tables-0000-00000.safetensors",
    "vocabulary-0.parquet",
    "vocabulary-1.parquet",
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = save(tmp_path_factory.mktemp("sound") / "a", toy_model("requests"))
    assert sorted(file.name for file in path.iterdir()) == FILES
    return path


@pytest.fixture
def artefact(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "a"))


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _halve(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\n")


def _alter_at(part: float) -> Callable[[Path], None]:
    def alter(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[int(part * (len(content) - 1))] ^= 1
        file.write_bytes(bytes(content))

    return alter


DAMAGES = {
    "cut": _cut,
    "halved": _halve,
    "emptied": _empty,
    "lengthened": _lengthen,
    "removed": Path.unlink,
    **{f"altered at {part}": _alter_at(part) for part in (0.0, 0.2, 0.5, 0.8, 1.0)},
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(name: str, damage: str, artefact: Path) -> None:
    DAMAGES[damage](artefact / name)
    with pytest.raises(PretrainedError) as error:
        load_pretrained(artefact)
    assert name in str(error.value)
    if name != "artefact.json":
        assert "Nothing was loaded" in str(error.value)


def test_all_that_is_damaged_is_named(artefact: Path) -> None:
    for name in FILES:
        if name != "artefact.json":
            _cut(artefact / name)
    with pytest.raises(PretrainedError) as error:
        load_pretrained(artefact)
    assert [name for name in FILES[2:] if name not in str(error.value)] == []


def test_a_missing_vocabulary_names_its_table(artefact: Path) -> None:
    (artefact / "vocabulary-1.parquet").unlink()
    with pytest.raises(PretrainedError, match=r"the vocabulary of table 'user'\) is missing"):
        load_pretrained(artefact)


def test_files_that_are_none_of_its_own(artefact: Path) -> None:
    for harmless in (".gitattributes", "LICENSE", "usage.md", "notes.txt", "curve.png"):
        (artefact / harmless).write_text("")
    (artefact / ".git").mkdir()
    load_pretrained(artefact)
    (artefact / "tables-0001-00000.safetensors").write_text("")
    (artefact / "pytorch_model.bin").write_text("")
    with pytest.raises(PretrainedError, match=r"model\.bin is none.*0001-00000\.safetensors is no"):
        load_pretrained(artefact)


def test_a_newer_format(artefact: Path) -> None:
    fields, _ = read_sealed(artefact / "artefact.json")
    newer: dict[str, Any] = {"format": 3, "versions": {"torchrec_gr": "9.1"}, "all": "else"}
    write_sealed(artefact / "artefact.json", newer)
    with pytest.raises(PretrainedError, match=r"format 3.*9\.1.*up to format 2: upgrade"):
        load_pretrained(artefact)
    for format_ in ("1", 0, None, 1.5, True):
        write_sealed(artefact / "artefact.json", fields | {"format": format_})
        with pytest.raises(PretrainedError, match="format"):
            load_pretrained(artefact)


def _without_vocabulary(fields: dict[str, Any]) -> None:
    fields["tables"]["item"]["vocabulary"] = None


def _outside(fields: dict[str, Any]) -> None:
    fields["files"]["../secret"] = fields["files"].pop("vocabulary-0.parquet")
    fields["tables"]["item"]["vocabulary"] = "../secret"


def _absolute(fields: dict[str, Any]) -> None:
    fields["files"]["/etc/hostname"] = fields["files"]["README.md"]


def _unlisted(fields: dict[str, Any]) -> None:
    fields["tables"]["item"]["fields"]["weight"]["rectangles"][0]["file"] = "../a/b.safetensors"


def _unlisted_dense(fields: dict[str, Any]) -> None:
    fields["dense"]["body.head.bias"]["value"]["file"] = "../b.safetensors"


def _without_schema(fields: dict[str, Any]) -> None:
    del fields["files"]["schema.yaml"]


def _with_a_gap(fields: dict[str, Any]) -> None:
    fields["tables"]["item"]["fields"]["weight"]["rectangles"][0]["num_rows"] -= 1


def _beyond(fields: dict[str, Any]) -> None:
    fields["tables"]["item"]["fields"]["weight"]["rectangles"][0]["first_row"] += 1


def _of_another_width(fields: dict[str, Any]) -> None:
    fields["tables"]["item"]["dim"] = 16


def _of_a_strange_dtype(fields: dict[str, Any]) -> None:
    fields["dense"]["body.head.bias"]["value"]["dtype"] = "load"


def _without_tables(fields: dict[str, Any]) -> None:
    del fields["tables"]


def _with_an_unknown_key(fields: dict[str, Any]) -> None:
    fields["tables"]["item"]["code"] = "import os"


def _with_another_card(fields: dict[str, Any]) -> None:
    fields["card"]["author"] = "someone"


CONTRADICTIONS = {
    _without_vocabulary: "table 'item': it has no vocabulary",
    _outside: r"'\.\./secret' is no name of a file",
    _absolute: "'/etc/hostname' is no name of a file",
    _unlisted: r"table 'item': it lists no file '\.\./a/b\.safetensors'",
    _unlisted_dense: r"body\.head\.bias: it lists no file '\.\./b\.safetensors'",
    _without_schema: r"it lists no schema\.yaml",
    _with_a_gap: "288 numbers are kept, expected 296",
    _beyond: "does not lie in it",
    _of_another_width: r"its rows are of shape \(8,\), expected \(16,\)",
    _of_a_strange_dtype: "no dtype 'load'",
    _without_tables: "is no record of an artefact.*tables",
    _with_an_unknown_key: "is no record of an artefact.*code",
    _with_another_card: "author",
}


@pytest.mark.parametrize("alter", CONTRADICTIONS, ids=lambda alter: alter.__name__[1:])
def test_a_record_that_was_altered_checksum_and_all(
    alter: Callable[[dict[str, Any]], None], artefact: Path
) -> None:
    (artefact.parent / "secret").write_bytes((artefact / "vocabulary-0.parquet").read_bytes())
    fields, _ = read_sealed(artefact / "artefact.json")
    alter(fields)
    write_sealed(artefact / "artefact.json", fields)
    with pytest.raises(PretrainedError, match=CONTRADICTIONS[alter]):
        load_pretrained(artefact)


def test_a_record_that_does_not_fit_its_files(artefact: Path) -> None:
    """Found when the rows are read, at the latest."""
    fields, _ = read_sealed(artefact / "artefact.json")
    fields["dense"]["body.head.bias"]["value"]["shape"] = [2]
    fields["dense"]["body.head.weight"]["value"]["dtype"] = "float64"
    (part,) = fields["tables"]["item"]["fields"]["weight"]["rectangles"]
    part["tensor"] = "user.weight.0.0"
    fields["tables"]["user"]["fields"]["weight"]["rectangles"][0]["tensor"] = "no.such"
    write_sealed(artefact / "artefact.json", fields)
    pretrained = load_pretrained(artefact)
    with pytest.raises(PretrainedError, match=r"of shape \(1,\), but the record says .*\(2,\)"):
        pretrained.dense("body.head.bias")
    with pytest.raises(PretrainedError, match=r"torch\.float32, but the record says float64"):
        pretrained.dense("body.head.weight")
    with pytest.raises(PretrainedError, match=r"of shape \(11, 8\), but the record says .*\(37, 8"):
        list(pretrained.tables["item"].pieces())
    with pytest.raises(PretrainedError, match=r"cannot read no\.such"):
        list(pretrained.tables["user"].pieces())


def test_contents_that_were_exchanged_checksum_and_all(artefact: Path) -> None:
    fields, _ = read_sealed(artefact / "artefact.json")
    shutil.copyfile(artefact / "vocabulary-1.parquet", artefact / "vocabulary-0.parquet")
    _seal(artefact, fields, "vocabulary-0.parquet")
    with pytest.raises(PretrainedError, match="table 'item' has 37 rows, its vocabulary 11"):
        load_pretrained(artefact)
    (artefact / "vocabulary-0.parquet").write_text("no parquet")
    _seal(artefact, fields, "vocabulary-0.parquet")
    with pytest.raises(PretrainedError, match=r"vocabulary-0\.parquet is not a vocabulary"):
        load_pretrained(artefact)


def test_a_schema_that_would_run_code(artefact: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (artefact / "schema.yaml").write_text(f"!!python/object/apply:os.mkdir ['{ran}']")
    fields, _ = read_sealed(artefact / "artefact.json")
    _seal(artefact, fields, "schema.yaml")
    with pytest.raises(PretrainedError, match=r"schema\.yaml is not YAML"):
        load_pretrained(artefact)
    assert not ran.exists()


def test_a_pickle_in_place_of_weights(artefact: Path) -> None:
    name = "dense-00000.safetensors"
    torch.save({"body.head.bias": torch.zeros(1)}, artefact / name)
    fields, _ = read_sealed(artefact / "artefact.json")
    _seal(artefact, fields, name)
    with pytest.raises(PretrainedError, match=f"cannot read body.head.bias of .*{name}"):
        load_pretrained(artefact).dense("body.head.bias")


def _seal(artefact: Path, fields: dict[str, Any], name: str) -> None:
    of = Checksum.of(artefact / name)
    fields["files"][name] = {"num_bytes": of.num_bytes, "sha256": of.sha256}
    write_sealed(artefact / "artefact.json", fields)


def test_what_is_no_artefact(sound: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    shutil.copytree(sound, tmp_path / "headless")
    (tmp_path / "headless" / "artefact.json").unlink()
    expected = r"expected a folder that save_pretrained wrote.*artefact\.json.*a run's folder"
    for name, found in (
        ("none", "there is no"),
        ("file", "is a file"),
        ("empty", "this one has nothing"),
        ("headless", r"this one has README\.md, dense-00000\.safetensors"),
    ):
        for has in (r"", expected):
            with pytest.raises(PretrainedError, match=has or found):
                load_pretrained(tmp_path / name)
        assert not has_artefact(tmp_path / name)


def test_a_record_that_is_something_else(artefact: Path) -> None:
    for content in ("[]", "{}", "null", "{", json.dumps({"format": 1})):
        (artefact / "artefact.json").write_text(content)
        with pytest.raises(PretrainedError, match=r"cannot read .*artefact\.json"):
            load_pretrained(artefact)


def test_files_that_change_after_they_were_checked(artefact: Path) -> None:
    pretrained = load_pretrained(artefact)
    save(artefact, toy_model("requests", seed=1))
    with pytest.raises(PretrainedError, match=r"tables-.*changed after .*: load it again"):
        list(pretrained.tables["item"].pieces())
    with pytest.raises(PretrainedError, match=r"dense-.*changed after .*: load it again"):
        pretrained.dense("body.head.bias")
    again = load_pretrained(artefact)
    (artefact / "dense-00000.safetensors").unlink()
    with pytest.raises(PretrainedError, match=r"cannot read body\.head\.bias .*No such file"):
        again.dense("body.head.bias")


def test_a_copy_elsewhere_is_the_same(sound: Path, artefact: Path) -> None:
    require_equal(contents(load_pretrained(artefact)), contents(load_pretrained(sound)))
