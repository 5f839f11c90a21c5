"""What may be frozen, before sharding and after. That it stands still: test_freeze_processes.py."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torch.nn.parallel import DistributedDataParallel

from tests.training.toy import ToyLoader, ToyLog, sharded, toy_model, whole
from torchrec_gr.training.freeze import freeze, frozen_names, has_fused_optimizer, thaw
from torchrec_gr.training.tables import table_weights
from torchrec_gr.training.trainer import Trainer

ITEM, USER = "embeddings.embeddings.item.weight", "embeddings.embeddings.user.weight"


def values(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the weights that this process holds."""
    return {name: whole(value).clone() for name, value in model.state_dict().items()}


def moved(model: nn.Module, optimizers: Any, view: str = "requests") -> set[str]:
    """The parameters that an epoch of training moves."""
    before = values(model)
    Trainer(model, optimizers, ToyLoader(ToyLog(), view)).train_epoch()  # type: ignore[arg-type]
    return {name for name, value in values(model).items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("is_sharded", [False, True])
def test_a_pattern_is_a_table_or_a_shell_pattern_of_names(is_sharded: bool) -> None:
    model = toy_model("requests")
    names = [name for name, _ in model.named_parameters()]
    if is_sharded:
        model, _ = sharded(model)
    assert freeze(model, ["body.*.bias", "item", "item"]) == [
        ITEM,
        "body.hidden.bias",
        "body.head.bias",
    ]
    assert frozen_names(model) == {ITEM, "body.hidden.bias", "body.head.bias"}
    assert freeze(model, []) == []
    assert freeze(model, ["*"]) == names
    assert frozen_names(model) == set(names)
    assert thaw(model, ["user", "body.h*"]) == names[1:]
    assert frozen_names(model) == {ITEM}


@pytest.mark.parametrize("change", [freeze, thaw])
@pytest.mark.parametrize("is_sharded", [False, True])
def test_a_pattern_that_means_nothing_is_refused_and_nothing_is_changed(
    change: Any, is_sharded: bool
) -> None:
    model = toy_model("requests")
    if is_sharded:
        model, _ = sharded(model)
    freeze(model, ["user"])
    for pattern, nearest in (("itm", "item"), ("body.hiden.bias", "body.hidden.bias")):
        with pytest.raises(ValueError, match=f"{pattern!r}: did you mean {nearest!r}"):
            change(model, ["body.head.*", "user", pattern])
    assert frozen_names(model) == {USER}


def test_a_table_with_an_optimizer_is_refused_before_sharding() -> None:
    model = toy_model("requests")
    apply_optimizer_in_backward(torch.optim.SGD, [table_weights(model)["user"]], {"lr": 0.1})
    with pytest.raises(ValueError, match=r"cannot freeze \['embeddings.*user.*optimizer already"):
        freeze(model, ["item", "user"])
    assert not frozen_names(model)
    assert not has_fused_optimizer(table_weights(model)["item"])


@pytest.mark.parametrize("view", ["requests", "impressions"])
def test_what_is_frozen_before_sharding_stays_so(view: str) -> None:
    model = toy_model(view)
    freeze(model, ["item", "body.head.*"])
    freeze(model, ["item"])  # again
    model, optimizers = sharded(copy.deepcopy(model).train())
    names = {name for name in values(model) if ".item." in name or ".head." in name}
    assert frozen_names(model) == names
    assert moved(model, optimizers, view) == set(values(model)) - names


def test_what_is_thawed_before_sharding_trains() -> None:
    model = toy_model("requests")
    freeze(model, ["*"])
    thaw(model, ["*"])
    assert not any(has_fused_optimizer(weight) for weight in table_weights(model).values())
    assert all(weight.requires_grad for weight in model.parameters())
    model, optimizers = sharded(model)
    assert moved(model, optimizers) == set(values(model))


def test_thawing_leaves_what_is_not_frozen_as_it_is() -> None:
    model = toy_model("requests")
    apply_optimizer_in_backward(torch.optim.SGD, [table_weights(model)["user"]], {"lr": 0.1})
    thaw(model, ["user"])
    assert has_fused_optimizer(table_weights(model)["user"])


def test_a_table_frozen_before_sharding_has_no_state_and_cannot_be_thawed() -> None:
    model = toy_model("requests")
    freeze(model, ["item", "body.head.*"])
    model, optimizers = sharded(model)
    optimizers.set_step(5)
    assert optimizers.state_dict()["state"][ITEM] == {}
    [rate] = [
        group["lr"]
        for group in optimizers.param_groups
        if any(optimizers.params[ITEM] is weight for weight in group["params"])
    ]
    assert rate == 0.0
    with pytest.raises(ValueError, match=r"cannot thaw .*item.*freeze after sharding"):
        thaw(model, ["item", "body.*"])
    assert "body.head.bias" in frozen_names(model)
    freeze(model, ["user"])
    thaw(model, ["user"])
    assert moved(model, optimizers) == {USER, "body.hidden.weight", "body.hidden.bias"}


@pytest.mark.parametrize("view", ["requests", "impressions"])
def test_a_model_all_frozen_can_be_sharded_and_thawed(view: str) -> None:
    model = toy_model(view)
    freeze(model, ["body.*"])
    model, _ = sharded(model)
    assert not isinstance(model._dmp_wrapped_module, DistributedDataParallel)
    thaw(model, ["body.*"])
    assert isinstance(model._dmp_wrapped_module, DistributedDataParallel)
    batch = next(iter(ToyLoader(ToyLog(), view)))
    model(batch)[0].backward()
    earlier = weakref.ref(model._dmp_wrapped_module)
    freeze(model, ["*"])
    assert earlier() is None
    loss, _ = model(batch)
    assert not loss.requires_grad


def test_frozen_tables_take_no_part_in_the_backward_pass() -> None:
    """Neither a kernel all of whose tables are frozen nor the sending back of its gradients."""
    model, _ = sharded(toy_model("requests"), "table_wise")
    batch = next(iter(ToyLoader(ToyLog(), "requests")))
    for frozen, nodes in (([], True), (["user"], True), (["*"], False)):
        freeze(model, frozen)
        rows = model.module.embeddings(batch.ids)
        assert {key: rows[key].values().requires_grad for key in ("hist", "user")} == {
            "hist": nodes,
            "user": nodes,
        }
    thaw(model, ["user"])
    rows = model.module.embeddings(batch.ids)["user"].values()
    assert rows.requires_grad


@pytest.mark.parametrize("view", ["requests", "impressions"])
def test_gradients_of_what_is_frozen_are_dropped(view: str) -> None:
    """AdamW must find none, and they must not take memory."""
    model, optimizers = sharded(toy_model(view), "table_wise", "adamw")
    batch = next(iter(ToyLoader(ToyLog(), view)))
    model(batch)[0].backward()
    freeze(model, ["item", "body.hidden.*"])
    model(batch)[0].backward()
    for name, weight in model.named_parameters():
        assert (weight.grad is None) == (name in frozen_names(model)), name
    freeze(model, ["user"])
    kernels = [
        kernel
        for module in model.modules()
        for lookup in getattr(module, "_lookups", ())
        for kernel in lookup._emb_modules
    ]
    assert [kernel.emb_module.weights.grad for kernel in kernels] == [None]
    optimizers.step()


def test_an_unsharded_table_gets_no_gradient() -> None:
    model = toy_model("requests")
    freeze(model, ["item"])
    batch = next(iter(ToyLoader(ToyLog(), "requests")))
    model(batch)[0].backward()
    grads = {name: weight.grad for name, weight in model.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None] == [ITEM]
