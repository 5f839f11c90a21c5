"""Weights on the meta device: first values of the right spread, repeatable, others untouched."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from torchrec_gr.training.optimizer import TableOptimizer
from torchrec_gr.training.sharding import shard

META, CPU = torch.device("meta"), torch.device("cpu")
ROWS, DIM = 20_000, 8


class _Model(nn.Module):
    def __init__(self, sequences: torch.device, bags: torch.device, dense: torch.device) -> None:
        super().__init__()
        table: dict[str, Any] = {"num_embeddings": ROWS, "embedding_dim": DIM}
        self.sequences = EmbeddingCollection(
            tables=[EmbeddingConfig(name="a", feature_names=["a"], **table)], device=sequences
        )
        self.bags = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(name="b", feature_names=["b"], **table),
                EmbeddingBagConfig(
                    name="c",
                    feature_names=["c"],
                    init_fn=partial(nn.init.normal_, std=3.0),
                    **table,
                ),
            ],
            device=bags,
        )
        self.linear = nn.Linear(DIM, 3, device=dense)
        self.norm = nn.BatchNorm1d(3, affine=False, device=dense)


def _sharded(model: nn.Module, sharding: Any, optimizer: Any = "rowwise_adagrad") -> dict[str, Any]:
    after = shard(model, device=CPU, table_optimizer=TableOptimizer(optimizer), sharding=sharding)
    return {
        name: value.local_shards()[0].tensor if hasattr(value, "local_shards") else value
        for name, value in after.state_dict().items()
    }


@pytest.mark.parametrize("sharding", [None, "table_wise", "row_wise", "column_wise"])
@pytest.mark.parametrize("optimizer", ["adagrad", "adamw"])
def test_values_are_spread_as_their_table_says(sharding: Any, optimizer: Any) -> None:
    torch.manual_seed(0)
    state = _sharded(_Model(META, META, META), sharding, optimizer)
    for table, deviation in (
        ("sequences.embeddings.a", math.sqrt(1 / ROWS) / math.sqrt(3)),
        ("bags.embedding_bags.b", math.sqrt(1 / ROWS) / math.sqrt(3)),
        ("bags.embedding_bags.c", 3.0),
    ):
        weight = state[f"{table}.weight"]
        assert weight.shape == (ROWS, DIM)
        assert weight.std().item() == pytest.approx(deviation, rel=0.02)
        assert weight.mean().item() == pytest.approx(0, abs=0.02 * deviation)
        assert len(weight.unique()) > 0.9 * weight.numel()  # of 2^24 numbers a uniform may draw
    assert state["linear.weight"].abs().max() <= math.sqrt(1 / DIM)
    assert len(state["linear.weight"].unique()) == 3 * DIM
    assert torch.equal(state["norm.running_var"], torch.ones(3))


def test_a_seeded_run_repeats_and_another_does_not() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(_sharded(_Model(META, META, META), None))
    for name in ("sequences.embeddings.a.weight", "bags.embedding_bags.b.weight", "linear.weight"):
        assert torch.equal(states[0][name], states[1][name])
        assert not torch.equal(states[0][name], states[2][name])


def _devices(on_meta: str) -> dict[str, torch.device]:
    return {part: META if part == on_meta else CPU for part in ("sequences", "bags", "dense")}


@pytest.mark.parametrize("on_meta", ["sequences", "bags", "dense"])
def test_what_is_not_on_meta_keeps_its_values(on_meta: str) -> None:
    model = _Model(**_devices(on_meta))
    before = {name: w.clone() for name, w in model.state_dict().items() if not w.is_meta}
    state = _sharded(model, None)
    assert 2 <= len(before) < len(state)
    for name, value in before.items():
        assert torch.equal(state[name], value), name
    assert not any(value.is_meta for value in state.values())


def test_a_weight_that_two_modules_share_stays_one() -> None:
    model = _Model(CPU, CPU, META)
    model.twin = nn.Linear(DIM, 3, device=META)
    model.twin.weight = model.linear.weight
    model.linear.requires_grad_(False)
    _sharded(model, None)
    assert model.twin.weight is model.linear.weight
    assert not model.twin.weight.requires_grad
    assert model.twin.bias.requires_grad


class _Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(2, device="meta"))


def test_a_module_that_cannot_give_values_is_refused() -> None:
    model = _Model(META, META, META)
    model.head = nn.Sequential(_Scale())
    with pytest.raises(ValueError, match=r"head.0 \(_Scale\) .* has no reset_parameters\(\)"):
        _sharded(model, None)
