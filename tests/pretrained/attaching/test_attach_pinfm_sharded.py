"""A PinFM module attached to a model of two processes, against one process without sharding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pretrained.attaching.attach_cases import KEYS, build, vocabularies
from tests.pretrained.attaching.attach_processes import LR, batch
from tests.pretrained.attaching.pinfm_cases import HASHED, save_pinfm
from tests.pretrained.attaching.pinfm_processes import TOKEN, in_two_processes
from torchrec_gr import attach_pretrained
from torchrec_gr.pretrained import Pretrained, load_pretrained

Results = dict[str, Any]
BAGS = "model.sparse_arch.embedding_bag_collection"


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pretrained, Pretrained]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pinfm")
    return save_pinfm(folder / "stock"), save_pinfm(folder / "hashed", HASHED)


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def by_two(artefacts: tuple[Pretrained, Pretrained], work_dir: Path) -> Results:
    stock, hashed = artefacts
    return in_two_processes(stock.path, hashed.path, work_dir)


def trained(artefact: Pretrained, **options: Any) -> dict[str, Tensor]:
    """Without sharding or pipeline, on the batches of both processes as one."""
    model = build("train")
    torch.manual_seed(2)
    attach_pretrained(model, artefact, **KEYS, strategy="full", tuning=TOKEN, **options)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for step in range(4):
        optimizer.zero_grad()
        model(batch(step))[0].backward()
        optimizer.step()
    unmoved = [n for n, tensor in model.state_dict().items() if torch.equal(tensor, fresh[n])]
    assert all(".target." in name or ".contrast." in name for name in unmoved), unmoved
    return model.state_dict()


def assert_near(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=1e-5, msg=name)


def test_attached_before_sharding(
    by_two: Results, artefacts: tuple[Pretrained, Pretrained]
) -> None:
    assert by_two["before"]["pipelined"] == 2
    assert_near(by_two["before"]["weights"], trained(artefacts[0]))


def test_a_multi_hash_table_attached_after_sharding(
    by_two: Results, artefacts: tuple[Pretrained, Pretrained]
) -> None:
    found = by_two["after"]
    assert found["same bits"]
    assert found["plan"] == [
        "model.pretrained.embeddings",
        "model.pretrained.items.sub_tables",
        BAGS,
    ]
    assert found["pipelined"] == 2  # all but the items, whose ids are hashed inside forward
    assert found["taken off"] == [BAGS]
    assert_near(found["weights"], trained(artefacts[1], vocabularies=vocabularies()))


def test_frozen_is_what_was_transferred(by_two: Results) -> None:
    found = by_two["frozen"]
    tables = {n for n in found["all"] if any(n.endswith(f".{t}.weight") for t in found["tables"])}
    assert len(tables) == 3
    assert found["unmoved"] == {*found["loaded"], *tables}


def test_every_loss_trains(by_two: Results) -> None:
    found = by_two["tuned"]
    assert all(0 < loss < 100 for loss in found["losses"])
    assert found["unmoved"] == set()


def test_an_artefact_of_two_processes(
    by_two: Results, artefacts: tuple[Pretrained, Pretrained], work_dir: Path
) -> None:
    """The pretrainer has the weights of the one that a single process saved."""
    assert by_two
    ours, theirs = load_pretrained(work_dir / "artefact"), artefacts[1]
    assert ours.tables.keys() == theirs.tables.keys()
    for name, table in ours.tables.items():
        assert table.slots == theirs.tables[name].slots
        weights = (torch.cat([p.weight for p in of.tables[name].pieces()]) for of in (ours, theirs))
        assert torch.equal(*weights)
