"""A module attached to a sharded model, before and after: against one process without sharding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.pretrained.attaching.attach_cases import KEYS, build, save_artefact
from tests.pretrained.attaching.attach_processes import LR, batch, in_two_processes
from torchrec_gr import attach_pretrained, detach_pretrained

Results = dict[str, Any]


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_artefact(tmp_path_factory.mktemp("attach") / "artefact").path


@pytest.fixture(scope="module")
def by_two(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return in_two_processes(artefact, tmp_path_factory.mktemp("processes"))


def train(model: nn.Module, steps: range) -> None:
    """Without sharding or pipeline, on the batches of both processes as one."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for step in steps:
        optimizer.zero_grad()
        model(batch(step))[0].backward()
        optimizer.step()


def attach(model: nn.Module, artefact: Path) -> nn.Module:
    return attach_pretrained(model, artefact, **KEYS, strategy="full")  # type: ignore[arg-type]


def assert_near(ours: dict[str, Tensor], theirs: dict[str, Tensor], fresh: nn.Module) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=1e-5)
        assert not torch.equal(tensor, fresh.state_dict()[name]), f"{name} did not move"


def test_attached_before_sharding(by_two: Results, artefact: Path) -> None:
    model = attach(build("train"), artefact)
    train(model, range(4))
    found = by_two["before"]
    assert found["pipelined"] == 2
    assert_near(found["weights"], model.state_dict(), attach(build("train"), artefact))


def test_attached_after_sharding(by_two: Results, artefact: Path) -> None:
    model = build("train")
    train(model, range(1))
    names = set(model.state_dict())
    attach(model, artefact)
    new = set(model.state_dict()) - names
    train(model, range(1, 3))
    found = by_two["after"]
    assert found["same bits"]
    assert found["same parameters"]
    assert found["pipelined"] == 2
    assert found["plan"] == [
        "model.pretrained.embeddings",
        "model.sparse_arch.embedding_bag_collection",
    ]
    assert found["names"] == sorted(name for name in new if ".pretrained_" not in name)
    assert_near(found["weights"], model.state_dict(), attach(build("train"), artefact))
    detach_pretrained(model)
    train(model, range(3, 4))
    assert_near(found["taken off"], model.state_dict(), build("train"))
    assert found["plan without"] == ["model.sparse_arch.embedding_bag_collection"]


def test_one_that_never_trained_leaves_no_trace(by_two: Results) -> None:
    assert by_two["never trained"]


def test_optimizer_state_stays(by_two: Results) -> None:
    assert by_two["optimizer state"] == {"equal": True, "new": True}


@pytest.mark.parametrize("when", ["before", "after"])
def test_frozen_tables_keep_every_bit(when: str, by_two: Results) -> None:
    assert by_two["frozen"][when] == {"frozen": True, "unmoved": True}


def test_a_sharded_state_dict_from_before_loads(by_two: Results) -> None:
    found = by_two["earlier state"]
    assert found["missing"] == []
    assert found["same bits"]
    for name, tensor in found["expected"].items():
        assert torch.equal(found["weights"][name], tensor), name
