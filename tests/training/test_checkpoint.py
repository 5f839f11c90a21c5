"""Checkpoints: whole or absent, exact, and harmless to read."""

from __future__ import annotations

import os
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.toy import sharded, toy_model, whole
from torchrec_gr.training.checkpoint import (
    CheckpointError,
    latest_checkpoint,
    load_checkpoint,
    read_record,
    read_weights,
    save_checkpoint,
)
from torchrec_gr.training.freeze import freeze_tables

OPTIMIZERS = ["rowwise_adagrad", "sgd", "adamw"]


def _trained(optimizer: str, seed: int = 0, frozen: tuple[str, ...] = ()) -> tuple[Any, Any]:
    model = toy_model("requests", seed)
    freeze_tables(model, frozen)
    return sharded(model, optimizer=optimizer)


def _contents(model: Any, optimizer: Any) -> dict[str, torch.Tensor]:
    contents = {name: whole(value).clone() for name, value in model.state_dict().items()}
    for name, state in optimizer.state_dict()["state"].items():
        contents |= {f"{name} {key}": whole(value).clone() for key, value in state.items()}
    return contents


def _randomise(model: Any, optimizer: Any) -> None:
    states = [list(state.values()) for state in optimizer.state_dict()["state"].values()]
    for entry in sum(states, list(model.state_dict().values())):
        is_sharded = hasattr(entry, "local_shards")
        (entry.local_shards()[0].tensor if is_sharded else entry).data.uniform_()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("frozen", [(), ("item",), ("item", "user")])
def test_every_tensor_comes_back(tmp_path: Path, optimizer: str, frozen: tuple[str, ...]) -> None:
    model, optimizers = _trained(optimizer, frozen=frozen)
    _randomise(model, optimizers)
    saved = _contents(model, optimizers)
    torch.manual_seed(11)
    save_checkpoint(tmp_path, 5, model, optimizers, {"note": "kept"})
    expected = torch.rand(3)

    other, others = _trained(optimizer, seed=1, frozen=frozen)
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert load_checkpoint(checkpoint, other, others) == {"note": "kept"}
    assert torch.equal(torch.rand(3), expected)
    loaded = _contents(other, others)
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], value) for name, value in saved.items())
    weights = read_weights(tmp_path)
    assert weights.keys() == toy_model("requests").state_dict().keys()
    assert all(torch.equal(weights[name], saved[name]) for name in weights)


def test_another_models_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path, 1, *_trained("rowwise_adagrad"), {})
    with pytest.raises(CheckpointError, match=r"lacks optimizer\.embeddings.*exp_avg; .*momentum1"):
        load_checkpoint(checkpoint, *_trained("adamw"))
    with pytest.raises(CheckpointError, match=r"item\.momentum1, which is unknown"):
        load_checkpoint(checkpoint, *_trained("rowwise_adagrad", frozen=("item",)))
    checkpoint = save_checkpoint(tmp_path, 2, *_trained("rowwise_adagrad", frozen=("item",)), {})
    with pytest.raises(CheckpointError, match=r"lacks .*item\.momentum1"):
        load_checkpoint(checkpoint, *_trained("rowwise_adagrad"))


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    model, optimizer = _trained("sgd")
    for step in (1, 9, 10, 11):
        save_checkpoint(tmp_path, step, model, optimizer, {"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_10", "step_11"]
    assert read_record(tmp_path / "step_11") == {"step": 11}
    assert latest_checkpoint(tmp_path) == tmp_path / "step_11"


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    model, optimizer = _trained("rowwise_adagrad")
    save_checkpoint(tmp_path, 1, model, optimizer, {})
    before = {path: path.read_bytes() for path in (tmp_path / "step_1").iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*step_2.*large"):
            save_checkpoint(tmp_path, 2, model, optimizer, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]
    assert {path: path.read_bytes() for path in (tmp_path / "step_1").iterdir()} == before
    save_checkpoint(tmp_path, 2, model, optimizer, {})


def test_a_record_that_cannot_be_written_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    model, optimizer = _trained("rowwise_adagrad")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            save_checkpoint(tmp_path, 2, model, optimizer, {})
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(save_checkpoint(tmp_path, 2, model, optimizer, {}).parent)


class _RunsCode:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> Any:
        return Path.touch, (self.touched,)


READERS: list[Callable[[Path, Any, Any], Any]] = [
    load_checkpoint,
    lambda checkpoint, model, optimizer: read_weights(checkpoint.parent),
]


@pytest.mark.parametrize("read", READERS, ids=["load_checkpoint", "read_weights"])
def test_an_index_that_brings_code_runs_none(tmp_path: Path, read: Any) -> None:
    model, optimizer = _trained("rowwise_adagrad")
    checkpoint = save_checkpoint(tmp_path, 1, model, optimizer, {})
    touched = tmp_path / "touched"
    index = pickle.loads((checkpoint / ".metadata").read_bytes())
    index.planner_data = _RunsCode(touched)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(CheckpointError, match="made to run code"):
        read(checkpoint, model, optimizer)
    assert not touched.exists()


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
    with pytest.raises(CheckpointError, match="cannot read checkpoint"):
        read(checkpoint, model, optimizer)
    assert not touched.exists()


def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path: Path) -> None:
    model, optimizer = _trained("rowwise_adagrad")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        read_weights(tmp_path)
    checkpoint = save_checkpoint(tmp_path, 1, model, optimizer, {})
    [data] = checkpoint.glob("*.distcp")
    data.write_bytes(data.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="cannot read checkpoint"):
        load_checkpoint(checkpoint, model, optimizer)
    (checkpoint / ".metadata").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match=r"cannot read the index .*\.metadata"):
        load_checkpoint(checkpoint, model, optimizer)
    (checkpoint / "record.json").unlink()
    with pytest.raises(CheckpointError, match=r"record\.json"):
        load_checkpoint(checkpoint, model, optimizer)
