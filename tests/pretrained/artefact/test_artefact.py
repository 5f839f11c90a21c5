"""What is saved by one process or two is loaded by one, bit for bit."""

from __future__ import annotations

import json
import pickle
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import pytest
import torch
from torch import nn

from tests.pretrained.artefact.artefact_cases import (
    LARGEST,
    LONGEST,
    PLACED,
    TRAINED,
    UNSHARDED,
    run_all,
    run_in_processes,
)
from tests.pretrained.artefact.artefact_toy import (
    CARD,
    CONFIG,
    SCHEMA,
    by_id,
    contents,
    require_equal,
    save,
    vocabularies,
)
from tests.training.toy import NUM_ITEMS, toy_model
from torchrec_gr import __version__
from torchrec_gr.pretrained import (
    ModelCard,
    PretrainedError,
    has_artefact,
    load_pretrained,
)
from torchrec_gr.pretrained.artefact import saved_table
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.source import LONGEST_PIECE

NAMES = ["-".join(case) for case in TRAINED]
NAMES += [f"placed {kind}" for kind in PLACED] + [f"unsharded {view}" for view in UNSHARDED]


@pytest.fixture(scope="module")
def by_one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    work_dir = tmp_path_factory.mktemp("one")
    with process_group("cpu"):
        return work_dir, run_all(work_dir)


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    work_dir = tmp_path_factory.mktemp("two")
    return work_dir, run_in_processes(work_dir)


@pytest.fixture(params=["whole", "in pieces"])
def _read_both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Reads tables at once, and in pieces that begin and end within those that were written."""
    longest = LONGEST_PIECE if request.param == "whole" else LONGEST + 2
    with mock.patch.object(saved_table, "LONGEST_PIECE", longest):
        yield


@pytest.mark.usefixtures("_read_both_ways")
@pytest.mark.parametrize("name", NAMES)
def test_one_process_saves(name: str, by_one: tuple[Path, dict[str, Any]]) -> None:
    work_dir, expected = by_one
    require_equal(by_id(contents(load_pretrained(work_dir / name))), expected[name])


@pytest.mark.usefixtures("_read_both_ways")
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_save(name: str, by_two: tuple[Path, dict[str, Any]]) -> None:
    work_dir, results = by_two
    require_equal(by_id(contents(load_pretrained(work_dir / name))), results["expected"][name])


def test_two_processes_fail_together(by_two: tuple[Path, dict[str, Any]]) -> None:
    work_dir, results = by_two
    first, second = results["errors"]
    assert first == second
    assert "'user' has no vocabulary" in first[0]
    assert "No space left" in first[1]
    before = toy_model("requests", seed=7).state_dict()
    kept = contents(load_pretrained(work_dir / "kept"))
    assert torch.equal(kept["item weight"], before["embeddings.embeddings.item.weight"])
    assert not list(work_dir.glob(".*kept"))


def test_the_sizes_and_names_of_files(by_two: tuple[Path, dict[str, Any]]) -> None:
    work_dir, _ = by_two
    for name in NAMES:
        files = sorted((work_dir / name).glob("*.safetensors"))
        kinds = {file.name.rpartition("-")[0] for file in files}
        assert kinds - {"tables-0000", "tables-0001"} == {"dense"}
        for file in files:
            with file.open("rb") as stream:
                header = int.from_bytes(stream.read(8), "little")
            if file.name.startswith("tables"):
                assert file.stat().st_size - 8 - header <= LARGEST
            assert stat.S_IMODE(file.stat().st_mode) & 0o444 == 0o444
    both = {file.name[:11] for file in (work_dir / NAMES[0]).glob("tables*")}
    assert both == {"tables-0000", "tables-0001"}


def test_what_is_said_of_the_state_that_is_left_out(by_one: tuple[Path, dict[str, Any]]) -> None:
    work_dir, _ = by_one
    tables = load_pretrained(work_dir / "requests-row_wise-adamw").record.tables
    assert {of.left_out for of in tables.values()} == {
        "not kept: exp_avg, exp_avg_sq, step; only Adagrad's sums can be"
    }
    assert {of.optimizer for of in tables.values()} == {None}
    for name in ("impressions-column_wise-sgd", "requests-row_wise-rowwise_adagrad"):
        tables = load_pretrained(work_dir / name).record.tables
        assert {of.left_out for of in tables.values()} == {None}


def test_all_that_is_said_comes_back(tmp_path: Path) -> None:
    pretrained = load_pretrained(save(tmp_path / "a", toy_model("requests")))
    assert (pretrained.module, pretrained.config) == ("toy", CONFIG)
    assert pretrained.schema == SCHEMA
    assert pretrained.card == CARD
    assert pretrained.versions["torchrec_gr"] == __version__
    assert pretrained.versions["torch"] == torch.__version__
    assert pretrained.name == f"artefact {tmp_path / 'a'}"
    assert set(pretrained.vocabularies) == {"item", "user"}
    for name, vocabulary in pretrained.vocabularies.items():
        assert vocabulary.fingerprint() == vocabularies()[name].fingerprint()
        assert (vocabulary.counts == vocabularies()[name].counts).all()
    item = pretrained.tables["item"]
    assert (item.num_rows, item.dim, item.optimizer) == (NUM_ITEMS, 8, None)
    assert pretrained.dense_state("body.head.bias") is None


def test_the_card_has_the_facts(tmp_path: Path) -> None:
    text = (save(tmp_path / "a", toy_model("requests")) / "README.md").read_text()
    assert text.startswith("# toy, pretrained on the toy log\n")
    facts = [
        "| requests | 40,000 |",
        '| splits | `["train", "test"]` |',
        r"| label | click \| like |",
        "| auc | 0.712346 |",
        '| tables | `{"lr": 0.05}` |',
        "| dim | 8 |",
        "| item | 37 | 8 | float32 | vocabulary-0.parquet | none |",
        "| user | 11 | 8 | float32 | vocabulary-1.parquet | none |",
        f"| torchrec_gr | {__version__} |",
        "4 tensors of 417 numbers",
        "load_pretrained(",
        "Apache-2.0",
        "Not for use.",
    ]
    assert [fact for fact in facts if fact not in text] == []


def test_a_card_of_one_line_is_enough(tmp_path: Path) -> None:
    path = save(tmp_path / "a", toy_model("requests"), card=ModelCard("a log"), config={})
    text = (path / "README.md").read_text()
    assert not {"## Data", "## Metrics", "## License", "## Notes"} & set(text.splitlines())


def test_half_precision_and_shared_tensors(tmp_path: Path) -> None:
    model = toy_model("requests").half()
    model.tied = nn.Linear(16, 1)
    model.tied.weight = model.body.head.weight
    model.register_buffer("calls", torch.tensor(3))
    model.register_buffer("none", torch.empty(0, 4))
    pretrained = load_pretrained(save(tmp_path / "a", model))
    (piece,) = pretrained.tables["item"].pieces()
    assert torch.equal(piece.weight, model.embeddings.embeddings["item"].weight.float())
    for name, value in model.state_dict().items():
        if name in pretrained.dense_shapes():
            assert torch.equal(pretrained.dense(name), value)
            assert pretrained.dense(name).dtype == value.dtype
            assert pretrained.dense_shapes()[name] == value.shape
    assert {"tied.weight", "calls", "none"} < set(pretrained.dense_shapes())


def test_a_dynamic_table_without_rows(tmp_path: Path) -> None:
    path = save(tmp_path / "a", toy_model("dynamic_requests"), vocabularies={})
    table = load_pretrained(path).tables["item"]
    assert (table.num_rows, len(table.raw_ids()), len(table.counts())) == (0, 0, 0)
    assert list(table.pieces()) == []


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a", toy_model("requests"))

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert len(contents(load_pretrained(path))) > 8


def test_a_run_with_an_artefact_in_it(tmp_path: Path) -> None:
    assert not has_artefact(tmp_path)
    save(tmp_path / "artefact", toy_model("requests"))
    (tmp_path / "settings.json").write_text("{}")
    assert has_artefact(tmp_path)
    assert load_pretrained(tmp_path).path == tmp_path / "artefact"
    assert load_pretrained(str(tmp_path / "artefact")).path == tmp_path / "artefact"


REFUSED = {
    "no vocabulary": ({"vocabularies": {}}, "'item' has no vocabulary.*'user' has no vocabulary"),
    "rows": (
        {"vocabularies": vocabularies() | {"user": vocabularies()["city"]}},
        "'user' has 11 rows, but its vocabulary 2",
    ),
    "config": ({"config": {"rate": torch.ones(2)}}, "'rate' of the config cannot be kept"),
    "metrics": (
        {"card": ModelCard("a log", metrics={"auc": torch.ones(())})},  # type: ignore[dict-item]
        "'metrics' of the card cannot be kept",
    ),
    "module": ({"module": ""}, "module's kind"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_saved_touches_nothing(name: str, tmp_path: Path) -> None:
    changes, message = REFUSED[name]
    with pytest.raises(PretrainedError, match=message):
        save(tmp_path / "a", toy_model("requests"), **changes)
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_be_saved(tmp_path: Path) -> None:
    two = nn.ModuleDict({"one": toy_model("requests"), "other": toy_model("impressions")})
    with pytest.raises(PretrainedError, match="both tables called 'item'"):
        save(tmp_path / "a", two)
    with torch.device("meta"):
        empty = nn.Linear(2, 2)
    with pytest.raises(PretrainedError, match="weight is on the meta device"):
        save(tmp_path / "a", empty)
    with pytest.raises(PretrainedError, match="'item' is dynamic and carries its own ids"):
        save(tmp_path / "a", toy_model("dynamic_requests"))
    with pytest.raises(PretrainedError, match="in a few words what data"):
        ModelCard(" ")
    assert list(tmp_path.iterdir()) == []


def test_places_that_are_taken(tmp_path: Path) -> None:
    model = toy_model("requests")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PretrainedError, match=r"it holds .*file itself, a file"):
        save(tmp_path / "file", model)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    with pytest.raises(PretrainedError, match=r"chapter\.tex.*thesis/artefact"):
        save(tmp_path / "thesis", model)
    path = save(tmp_path / "own", model)
    (path / "notes.txt").write_text("mine")
    with pytest.raises(PretrainedError, match=r"notes\.txt"):
        save(path, model)
    (tmp_path / "empty").mkdir()
    assert load_pretrained(save(tmp_path / "empty", model)).module == "toy"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "own", "thesis"]


def test_an_artefact_is_replaced(tmp_path: Path) -> None:
    save(tmp_path / "a", toy_model("requests", seed=1))
    save(tmp_path / "a", toy_model("impressions", seed=2))
    found = load_pretrained(tmp_path / "a").record.tables["item"].parameter
    assert found == "sparse.bags.embedding_bags.item.weight"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    json.loads((tmp_path / "a" / "artefact.json").read_text())
