"""Dynamic tables under the training package, which has no special case for them."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.training.toy import ToyLoader, ToyLog, sharded, toy_model
from torchrec_gr.embeddings.dynamic_table import dynamic_tables
from torchrec_gr.training.freeze import freeze_tables
from torchrec_gr.training.trainer import Trainer

VIEWS = ("dynamic_requests", "dynamic_impressions")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd"])
def test_trains(view: str, optimizer: str) -> None:
    trainer = Trainer(*sharded(toy_model(view), None, optimizer), ToyLoader(ToyLog(), view))
    losses = [trainer.train_epoch().mean_loss for _ in range(3)]
    assert losses[-1] < losses[0]
    tables = dynamic_tables(trainer.model)
    assert all(table.report().rows > 5 for table in tables.values())
    assert len({int(table.step) for table in tables.values()}) == 1


@pytest.mark.parametrize("view", VIEWS)
def test_a_frozen_table_keeps_every_bit(view: str) -> None:
    model = toy_model(view)
    freeze_tables(model, ["item"])
    trainer = Trainer(*sharded(model), ToyLoader(ToyLog(), view))
    trainer.train_epoch()
    tables = {name.split(".")[-1]: table for name, table in dynamic_tables(trainer.model).items()}
    before = {name: copy.deepcopy(table.rows()) for name, table in tables.items()}
    trainer.train_epoch()
    for name, table in tables.items():
        after = table.rows()
        assert torch.equal(after.ids, before[name].ids)  # every id was seen in the first epoch
        assert torch.equal(after.weight, before[name].weight) == (name == "item")


@pytest.mark.parametrize("view", VIEWS)
def test_a_dense_optimizer_is_refused(view: str) -> None:
    with pytest.raises(ValueError, match=r"dynamic tables \['.*item', .*'adamw'.*rowwise_adagrad"):
        sharded(toy_model(view), None, "adamw")
