"""The optimizer's state comes along where it is asked for, or the transfer is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from tests.training.toy import DIM, NUM_ITEMS, ToyLoader, ToyLog, sharded, toy_model
from torchrec_gr.embeddings.dynamic_table import dynamic_tables
from torchrec_gr.training.freeze import freeze
from torchrec_gr.training.source import TableInMemory, WeightsInMemory
from torchrec_gr.training.transfer import transfer
from torchrec_gr.training.transfer_plan import SAME_ROWS, TablePlan, TransferPlan

BIAS = "body.hidden.bias"


class _WithState(WeightsInMemory):
    """A bias that was trained by AdamW, beside one that was not."""

    def dense_state(self, name: str) -> Mapping[str, Tensor] | None:
        state = {"step": torch.tensor(9.0), "exp_avg": torch.ones(16), "exp_avg_sq": torch.ones(16)}
        return state if name == "trained" else None


def _source(optimizer: str | None = "adagrad", dim: int = DIM) -> _WithState:
    state = torch.rand(NUM_ITEMS, *([dim] if optimizer == "adagrad" else []))
    kept = {"state": state, "optimizer": optimizer} if optimizer else {}
    ids = pa.array(range(100, 100 + NUM_ITEMS))
    goods = TableInMemory(torch.randn(NUM_ITEMS, dim), ids, **kept)  # type: ignore[arg-type]
    return _WithState("s", {"goods": goods}, {"trained": torch.ones(16), "new": torch.ones(16)})


def _plan(**options: Any) -> TransferPlan:
    return TransferPlan({"item": TablePlan("goods", SAME_ROWS, optimizer_state=True, **options)})


def test_adamws_state_of_dense_parameters_comes_along() -> None:
    model, optimizer = sharded(toy_model("requests"))
    for takes_state in (False, True):
        plan = TransferPlan(dense={BIAS: "trained"}, dense_optimizer_state=takes_state)
        report = transfer(_source(), model, plan, optimizer=optimizer)
        state = optimizer.state_dict()["state"][BIAS]
        assert float(state["step"]) == (9.0 if takes_state else 0.0)
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(state[name], torch.full((16,), float(takes_state)))
        assert report.names("loaded") == [BIAS]
    assert torch.equal(model.state_dict()[BIAS], torch.ones(16))


def test_training_goes_on_from_the_state() -> None:
    """A row whose state is huge hardly moves; one of none does."""
    source = _source("rowwise_adagrad")
    state = source.tables["goods"].state
    assert state is not None
    state[: NUM_ITEMS // 2] = 1e12
    state[NUM_ITEMS // 2 :] = 0
    model, optimizer = sharded(toy_model("requests"))
    transfer(source, model, _plan(), optimizer=optimizer)
    (shard,) = model.state_dict()["embeddings.embeddings.item.weight"].local_shards()
    before = shard.tensor.detach().clone()
    optimizer.set_step(1)
    for batch in ToyLoader(ToyLog(), "requests"):
        model(batch)[0].backward()
    moved = (shard.tensor - before).abs().amax(1)
    assert moved[: NUM_ITEMS // 2].max() < 1e-5
    assert moved[NUM_ITEMS // 2 :].max() > 1e-2


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        (None, "adagrad", "has the state of no optimizer, .* trained by adagrad"),
        ("adagrad", "rowwise_adagrad", "has the state of adagrad, .* by rowwise_adagrad"),
        ("rowwise_adagrad", "sgd", "has the state of rowwise_adagrad, .* keeps none"),
        ("adagrad", "adamw", "has the state of adagrad, .* keeps none"),
    ],
)
@pytest.mark.parametrize("view", ["requests", "dynamic_requests"])
def test_a_state_of_another_optimizer_is_refused(
    theirs: str | None, ours: str, words: str, view: str
) -> None:
    is_dynamic = view.startswith("dynamic") and ours != "adamw"  # which dynamic tables lack
    ids = None if is_dynamic else SAME_ROWS
    plan = TransferPlan({"item": TablePlan("goods", ids, optimizer_state=True)})
    view = view if is_dynamic else "requests"
    model, optimizer = sharded(toy_model(view), optimizer=ours)
    with pytest.raises(ValueError, match=words):
        transfer(_source(theirs), model, plan, optimizer=optimizer)


def test_a_state_needs_the_optimizer_that_keeps_it() -> None:
    model, optimizer = sharded(toy_model("requests"), optimizer="adagrad")
    with pytest.raises(ValueError, match=r"trained by .* none"):
        transfer(_source(), model, _plan())
    plan = TransferPlan(dense={BIAS: "trained"}, dense_optimizer_state=True)
    with pytest.raises(ValueError, match=r"keeps none, s \['exp_avg'.*leave dense_opt"):
        transfer(_source(), model, plan)
    plan = TransferPlan(dense={BIAS: "new"}, dense_optimizer_state=True)
    with pytest.raises(ValueError, match=r"keeps \['exp_avg'.*s none of new"):
        transfer(_source(), model, plan, optimizer=optimizer)


def test_adagrads_state_has_a_width_of_its_own() -> None:
    source = _source(dim=2 * DIM)
    for view, ids in (("requests", SAME_ROWS), ("dynamic_requests", None)):
        model, optimizer = sharded(toy_model(view), optimizer="adagrad")
        plan = TablePlan("goods", ids, projection="principal", optimizer_state=True)
        with pytest.raises(ValueError, match="Adagrad's state has the source's width of 16, not 8"):
            transfer(source, model, TransferPlan({"item": plan}), optimizer=optimizer)


def test_a_row_wise_state_fits_any_width() -> None:
    source = _source("rowwise_adagrad", dim=2 * DIM)
    state = source.tables["goods"].state
    assert state is not None
    model, optimizer = sharded(toy_model("requests"))
    transfer(source, model, _plan(projection="principal"), optimizer=optimizer)
    kept = optimizer.state_dict()["state"]["embeddings.embeddings.item.weight"]
    (found,) = (value for name, value in kept.items() if name.endswith("momentum1"))
    assert torch.equal(found.local_shards()[0].tensor, state)
    model, _ = sharded(toy_model("dynamic_requests"))
    plan = TablePlan("goods", projection="principal", optimizer_state=True)
    transfer(source, model, TransferPlan({"item": plan}))
    rows = dynamic_tables(model)["embeddings.embeddings.item"].rows()
    assert torch.equal(rows.optimizer[rows.ids.argsort()], state)


def test_what_is_frozen_after_sharding_says_so() -> None:
    model, _ = sharded(toy_model("requests"))
    freeze(model, ["item", "body.head.bias"])
    plan = TransferPlan({"item": TablePlan("goods", SAME_ROWS)})
    report = transfer(_source(), model, plan)
    assert [entry.name for entry in report.parameters if entry.frozen] == [
        "embeddings.embeddings.item.weight",
        "body.head.bias",
    ]
