"""Dynamic tables under the training package, which has no special case for them."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.training.toy import ToyLoader, ToyLog, sharded, toy_model
from torchrec_gr.embeddings.dynamic_table import dynamic_tables
from torchrec_gr.training.freeze import freeze, frozen_names, thaw
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
def test_a_frozen_table_stands_still_until_it_is_thawed(view: str) -> None:
    model, optimizers = sharded(toy_model(view))

    def moved(log: ToyLog) -> set[str]:
        tables = {name.split(".")[-1]: table for name, table in dynamic_tables(model).items()}
        before = {name: copy.deepcopy(vars(table.rows())) for name, table in tables.items()}
        Trainer(model, optimizers, ToyLoader(log, view)).train_epoch()
        after = {name: vars(table.rows()) for name, table in tables.items()}
        return {
            name
            for name, rows in before.items()
            if not all(torch.equal(rows[field], after[name][field]) for field in rows)
        }

    first, second = ToyLog(4), ToyLog(seed=1)  # of which the second has more items
    assert moved(first) == {"item", "user"}
    freeze(model, ["item"])
    assert {name.split(".")[-2] for name in frozen_names(model)} == {"item"}
    assert moved(second) == {"user"}
    thaw(model, ["item"])
    assert moved(second) == {"item", "user"}


@pytest.mark.parametrize("view", VIEWS)
def test_a_table_frozen_before_sharding_keeps_its_rows_and_no_state(view: str) -> None:
    model = toy_model(view)
    batch = next(iter(ToyLoader(ToyLog(), view)))
    model(batch)
    freeze(model, ["item"])
    tables = {name.split(".")[-1]: table for name, table in dynamic_tables(model).items()}
    rows = tables["item"].rows()
    model, optimizers = sharded(model)
    Trainer(model, optimizers, ToyLoader(ToyLog(), view)).train_epoch()
    tables = {name.split(".")[-1]: table for name, table in dynamic_tables(model).items()}
    after = tables["item"].rows()
    assert torch.equal(after.ids, rows.ids)
    assert torch.equal(after.weight, rows.weight)
    assert after.optimizer.numel() == 0
    assert tables["user"].rows().optimizer.numel() > 0
    with pytest.raises(ValueError, match="cannot thaw"):
        thaw(model, ["item"])


@pytest.mark.parametrize("view", VIEWS)
def test_a_dense_optimizer_is_refused(view: str) -> None:
    with pytest.raises(ValueError, match=r"dynamic tables \['.*item', .*'adamw'.*rowwise_adagrad"):
        sharded(toy_model(view), None, "adamw")
