"""Freezes parameters, and thaws them, before sharding and after: frozen ones keep every bit."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torch.distributed.optim.apply_optimizer_in_backward import (
    param_to_acc_grad_map,
    param_to_optim_hook_handle_map,
)
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.model_parallel import DistributedModelParallel, get_unwrapped_module

from torchrec_gr.training.frozen_lookup import (
    ShardedCollection,
    frozen_tables,
    set_frozen_tables,
)
from torchrec_gr.training.parameter_names import matching
from torchrec_gr.training.tables import table_of


def freeze(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Freezes parameters: in training they are read, and neither they nor their state move.

    A frozen table costs no gradients, and no backward pass of its look-up; frozen before sharding,
    no optimizer state either (it cannot be thawed after that). A frozen dynamic table is read as in
    evaluation: ids that are new get no row, nothing is counted and none is evicted. What is frozen
    already stays so.

    On a sharded model all processes must call this together, between two steps: before the forward
    pass of the one and after the optimizer's step of the other.

    Args:
        model: sharded or not; `shard` leaves frozen what was frozen before.
        patterns: each a table's name, or a shell pattern for whole names of parameters as they are
            in the state dict ("body.decoder.*").

    Returns:
        The names of the parameters that are meant, in the model's order.

    Raises:
        ValueError: a pattern that means no parameter, or a table of a model that is not sharded
            that was given an optimizer; nothing is frozen then.
    """
    weights = dict(model.named_parameters())
    names = matching(list(weights), patterns)
    taken = [
        name
        for name in names
        if table_of(name) is not None
        and weights[name].requires_grad
        and not isinstance(model, DistributedModelParallel)
        and has_fused_optimizer(weights[name])
    ]
    if taken:
        raise ValueError(
            f"cannot freeze {taken}: they have an optimizer already; freeze them before they get "
            "one, or after the model was sharded"
        )
    _set(model, names, frozen=True)
    return names


def thaw(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Lets frozen parameters train again, from the state in which they were frozen.

    What is not frozen stays as it is. All processes must call this together, as `freeze`.

    Args:
        model: sharded or not.
        patterns: as of `freeze`.

    Returns:
        The names of the parameters that are meant, in the model's order.

    Raises:
        ValueError: a pattern that means no parameter, or a table that was frozen before sharding,
            which has no optimizer; nothing is thawed then.
    """
    names = matching([name for name, _ in model.named_parameters()], patterns)
    for_good = [name for name in names if name in frozen_for_good(model)]
    if for_good:
        raise ValueError(
            f"cannot thaw {for_good}: they were frozen before the model was sharded, and have no "
            "optimizer; freeze after sharding what is to be thawed"
        )
    _set(model, names, frozen=False)
    return names


def frozen_names(model: nn.Module) -> set[str]:
    """The names of the parameters that are frozen, alike on all processes."""
    static = _static_tables(model)
    return {
        name
        for name, weight in model.named_parameters()
        if (
            table_of(name) in frozen_tables(static[name])
            if name in static
            else not weight.requires_grad
        )
    }


def freeze_for_good(model: DistributedModelParallel, names: Iterable[str]) -> None:
    """Freezes parameters of a sharded model that were frozen before, and so can't be thawed.

    Args:
        model: newly sharded.
        names: what `frozen_names` gave before.
    """
    names = list(names)
    tables = {name for name in names if table_of(name) is not None}
    model._frozen_for_good = frozen_for_good(model) | tables
    _set(model, names, frozen=True)


def has_fused_optimizer(weight: nn.Parameter) -> bool:
    """Whether an unsharded table's weight was given a fused optimizer, frozen ones included."""
    return hasattr(weight, "_in_backward_optimizers")


def release_optimizer(weight: nn.Parameter) -> None:
    """Takes a fused optimizer off an unsharded table: torch would keep both for good."""
    for handle in param_to_optim_hook_handle_map.pop(weight, ()):
        handle.remove()
    param_to_acc_grad_map.pop(weight, None)
    for name in ("_in_backward_optimizers", "_optimizer_classes", "_optimizer_kwargs"):
        vars(weight).pop(name, None)


def frozen_for_good(model: nn.Module) -> frozenset[str]:
    """The tables of a sharded model that `thaw` cannot thaw, by name."""
    names: frozenset[str] = vars(model).get("_frozen_for_good", frozenset())
    return names


def _static_tables(model: nn.Module) -> dict[str, ShardedCollection]:
    """The collection of each static table that is sharded, by its weight's name."""
    found: dict[str, ShardedCollection] = {}
    for path, module in get_unwrapped_module(model).named_modules():
        if isinstance(module, ShardedCollection):
            found |= {name: module for name, _ in module.named_parameters(prefix=path)}
    return found


def _set(model: nn.Module, names: Sequence[str], *, frozen: bool) -> None:
    static = _static_tables(model)
    for collection in set(static.values()):
        tables = frozenset(str(table_of(n)) for n in names if static.get(n) is collection)
        before = frozen_tables(collection)
        after = before | tables if frozen else before - tables
        if after != before:
            set_frozen_tables(collection, after)
    weights = {name: w for name, w in model.named_parameters() if name not in static}
    names = [name for name in names if name in weights]
    changed = [name for name in names if weights[name].requires_grad == frozen]
    for name in changed:
        weights[name].requires_grad_(not frozen)
        weights[name].grad = None
    if not isinstance(model, DistributedModelParallel):
        for name in names:
            if table_of(name) is not None:
                _keep_in_sharding(weights[name], frozen=frozen)
    elif model._ddp_wrapped and any(table_of(name) is None for name in changed):
        replicate(model)


def _keep_in_sharding(weight: nn.Parameter, *, frozen: bool) -> None:
    """Sees to it that a frozen table stays so under DistributedModelParallel, and a thawed not.

    There a table moves whenever its rows are read, by a default optimizer where it was given none,
    `requires_grad` or not. A fused SGD of learning rate 0 keeps every bit.
    """
    if frozen and not has_fused_optimizer(weight):
        weight.requires_grad_(True)
        apply_optimizer_in_backward(torch.optim.SGD, [weight], {"lr": 0.0})
        weight.requires_grad_(False)
    elif not frozen and getattr(weight, "_optimizer_kwargs", None) == [{"lr": 0.0}]:
        release_optimizer(weight)


def replicate(model: DistributedModelParallel) -> None:
    """Wraps what is not a table in DistributedDataParallel, anew where it was wrapped before.

    That knows the parameters that need gradients from the start, and cannot be made without any.
    All processes must call this together.
    """
    wrapped = model._dmp_wrapped_module
    if isinstance(wrapped, DistributedDataParallel):
        model._dmp_wrapped_module = wrapped.module
        del wrapped
        gc.collect()  # it refers to itself, and holds buckets of gradients
    tables = set(DistributedModelParallel._sharded_parameter_names(model.module))
    dense = [weight for name, weight in model.named_parameters() if name not in tables]
    model._ddp_wrapped = not any(weight.requires_grad for weight in dense)
    model.init_data_parallel()
