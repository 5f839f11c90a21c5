"""Freezes embedding tables: they are read in training and do not move."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward

from torchrec_gr.training.tables import table_weights


def freeze_tables(model: nn.Module, tables: Iterable[str]) -> None:
    """Freezes tables of a model that is not sharded yet; `shard` leaves a frozen table frozen.

    Under DistributedModelParallel a table moves whenever its rows are read, by a default optimizer
    where it was given none, `requires_grad` or not. A fused SGD of learning rate 0 keeps every bit.

    Raises:
        ValueError: the model has no such table, or the table was given an optimizer already.
    """
    weights = table_weights(model)
    tables = list(tables)
    unknown = sorted(set(tables) - set(weights))
    if unknown:
        raise ValueError(f"cannot freeze {unknown}: the model's tables are {sorted(weights)}")
    taken = [table for table in tables if has_fused_optimizer(weights[table])]
    if taken:
        raise ValueError(f"cannot freeze {taken}: they have an optimizer already; freeze first")
    for table in tables:
        apply_optimizer_in_backward(torch.optim.SGD, [weights[table]], {"lr": 0.0})


def has_fused_optimizer(weight: nn.Parameter) -> bool:
    """Whether an unsharded table's weight was given a fused optimizer, frozen ones included."""
    return hasattr(weight, "_in_backward_optimizers")
