"""Checkpoints: whole or absent, exact, and harmless to read."""

from __future__ import annotations

import os
import re
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
from torchrec_gr.training.freeze import freeze

OPTIMIZERS = ["rowwise_adagrad", "sgd", "adamw"]


def _trained(optimizer: str, seed: int = 0, frozen: tuple[str, ...] = ()) -> tuple[Any, Any]:
    model = toy_model("requests", seed)
    freeze(model, frozen)
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


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_checkpoint_loads_into_a_model_that_gained_a_part(tmp_path: Path, optimizer: str) -> None:
    model, optimizers = _trained(optimizer)
    _randomise(model, optimizers)
    saved = _contents(model, optimizers)
    checkpoint = save_checkpoint(tmp_path, 5, model, optimizers, {})

    grown = toy_model("requests", 1)
    grown.body.added = torch.nn.Linear(3, 2)
    others = sharded(grown, optimizer=optimizer)
    before = _contents(*others)
    with pytest.raises(CheckpointError, match=r"lacks model\.body\.added\.bias"):
        load_checkpoint(checkpoint, *others)
    with pytest.raises(CheckpointError, match=r"lacks model\.body\.added\.weight"):
        load_checkpoint(checkpoint, *others, added=["body.added.bias"])
    load_checkpoint(checkpoint, *others, added=["body.added"])
    loaded = _contents(*others)
    assert loaded.keys() > saved.keys()
    for name, value in loaded.items():
        assert torch.equal(value, saved[name] if name in saved else before[name]), name


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


READERS: list[Callable[[Path, Any, Any], Any]] = [
    load_checkpoint,
    lambda checkpoint, model, optimizer: read_weights(checkpoint.parent),
]


def test_values_that_are_not_plain_leave_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*not JSON serializable"):
        save_checkpoint(tmp_path, 1, *_trained("sgd"), {"path": tmp_path})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read", READERS, ids=["load_checkpoint", "read_weights"])
@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "record.json"])
def test_a_file_that_was_cut_altered_or_removed_is_named_and_nothing_loaded(
    tmp_path: Path, name: str, read: Any
) -> None:
    model, optimizer = _trained("rowwise_adagrad")
    checkpoint = save_checkpoint(tmp_path, 1, model, optimizer, {})
    content = (checkpoint / name).read_bytes()
    other, others = _trained("rowwise_adagrad", seed=1)
    before = _contents(other, others)
    places = (0, len(content) // 2, len(content) - 1)
    altered = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in places]
    for damaged in (*altered, content[: len(content) // 2], content + b" ", b""):
        (checkpoint / name).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=rf"step_1/{re.escape(name)}.*(ut back|another)"):
            read(checkpoint, other, others)
    (checkpoint / name).unlink()
    with pytest.raises(CheckpointError, match=rf"step_1/{re.escape(name)}.*remove .*step_1"):
        read(checkpoint, other, others)
    after = _contents(other, others)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    (checkpoint / name).write_bytes(content)
    read(checkpoint, other, others)


def test_there_is_nothing_to_read_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        read_weights(tmp_path)
