"""The stamp changes with whatever changes keys and values, and with nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

from tests.pretrained.attaching.attach_cases import build, impressions, loss, save_artefact
from torchrec_gr.models.pinfm import PinFMEncoder
from torchrec_gr.models.pinfm_config import PinFMConfig, PinFMFusion
from torchrec_gr.pretrained import load_pretrained
from torchrec_gr.pretrained.serving.module_version import artefact_version, module_version
from torchrec_gr.training.optimizer import TableOptimizer
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import Sharding, shard


@pytest.fixture(scope="module", autouse=True)
def device() -> Iterator[torch.device]:
    with process_group("cpu") as device:
        yield device


class Model(nn.Module):
    """Tables, weights and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = EmbeddingCollection(
            tables=[
                EmbeddingConfig(
                    name=name, embedding_dim=8, num_embeddings=rows, feature_names=[name]
                )
                for name, rows in (("item", 40), ("surface", 3))
            ]
        )
        self.dense = nn.BatchNorm1d(8)


def test_equal_copies_have_one_version() -> None:
    model = Model()
    assert module_version(copy.deepcopy(model)) == module_version(model)
    assert module_version(model.eval()) == module_version(model.train())
    assert len(module_version(model)) == 64


def test_any_number_counts() -> None:
    model: Any = Model()
    model.register_buffer("raw_ids", torch.zeros(3), persistent=False)
    versions = {module_version(model)}
    for name, value in {**model.state_dict(), "raw_ids": model.raw_ids}.items():
        with torch.no_grad():
            value.view(-1)[-1] += 1
        version = module_version(model)
        assert version not in versions, f"{name} does not count"
        versions.add(version)


def test_names_shapes_dtypes_and_settings_count() -> None:
    def of(**tensors: torch.Tensor) -> str:
        module = nn.Module()
        for name, value in tensors.items():
            module.register_buffer(name, value)
        return module_version(module)

    zeros = torch.zeros(2, 3)
    alike = [
        of(a=zeros),
        of(b=zeros),
        of(a=zeros.T),
        of(a=zeros.int()),
        of(a=zeros, b=zeros[:0]),
        of(a=zeros.bfloat16()),
        of(a=zeros.flatten()),
    ]
    assert len(set(alike)) == len(alike)
    assert of(a=zeros.T) == of(a=torch.zeros(3, 2))
    config = PinFMConfig(dim=8, num_layers=1)
    mean, last = (PinFMEncoder(config, PinFMFusion(kind)) for kind in ("mean", "last"))
    last.load_state_dict(mean.state_dict())
    assert module_version(mean) == module_version(last)
    assert module_version(mean, mean.fusion) != module_version(last, last.fusion)


def test_a_training_step_changes_it() -> None:
    model: Any = build("net")
    before = module_version(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss("net", model, impressions([[1, 2]], [3])).backward()
    assert module_version(model) == before
    optimizer.step()
    assert module_version(model) != before


@pytest.mark.parametrize("sharding", ["row_wise", "table_wise", "column_wise"])
def test_sharding_in_one_process_keeps_it(sharding: Sharding) -> None:
    model = Model()
    before = module_version(model)
    optimizer = TableOptimizer("sgd", lr=0.1)
    sharded = shard(model, device=torch.device("cpu"), table_optimizer=optimizer, sharding=sharding)
    assert module_version(sharded) == before


def test_an_artefact_is_stamped_by_its_checksums(tmp_path: Path) -> None:
    first = save_artefact(tmp_path / "a")
    version = artefact_version(first)
    assert artefact_version(load_pretrained(tmp_path / "a")) == version
    assert artefact_version(save_artefact(tmp_path / "b")) == version  # the same weights
    assert artefact_version(first, "mean") != version


def test_what_is_no_tensor_is_refused() -> None:
    class Odd(nn.Module):
        def get_extra_state(self) -> str:
            return "x"

        def set_extra_state(self, state: str) -> None:
            pass

    with pytest.raises(ValueError, match="_extra_state is a str, expected a tensor"):
        module_version(Odd())
