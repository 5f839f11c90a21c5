"""Finds a model's embedding tables, before and after sharding."""

from __future__ import annotations

import re
from typing import TypeAlias

from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from torchrec_gr.embeddings.dynamic_collections import (
    DynamicEmbeddingBagCollection,
    DynamicEmbeddingCollection,
)

Collection: TypeAlias = (
    EmbeddingCollection
    | EmbeddingBagCollection
    | DynamicEmbeddingCollection
    | DynamicEmbeddingBagCollection
)
"""Every type of module that holds tables; `sharders` has a sharder for each."""

_TABLE_WEIGHT = re.compile(r"(?:^|\.)(?:embeddings|embedding_bags)\.([^.]+)\.weight$")


def table_of(name: str) -> str | None:
    """The table that a parameter's or a state dict's name belongs to; None for a dense parameter.

    TorchRec names a table's weight `<path>.embeddings.<table>.weight` in an EmbeddingCollection and
    `<path>.embedding_bags.<table>.weight` in an EmbeddingBagCollection, sharded or not.
    """
    match = _TABLE_WEIGHT.search(name)
    return match.group(1) if match else None


def table_collections(model: nn.Module) -> dict[str, Collection]:
    """The model's unsharded embedding collections by their path in it.

    Raises:
        ValueError: there is none, or two of them hold a table of the same name.
    """
    found = {
        path: module for path, module in model.named_modules() if isinstance(module, Collection)
    }
    if not found:
        raise ValueError(
            f"{type(model).__name__} holds no EmbeddingCollection and no EmbeddingBagCollection, "
            "TorchRec's or dynamic: there is no table to shard. A model that was sharded already "
            "cannot be sharded again."
        )
    tables = [name for module in found.values() for name in table_weights(module)]
    twice = sorted({name for name in tables if tables.count(name) > 1})
    if twice:
        raise ValueError(
            f"tables {twice} are in more than one embedding collection of {type(model).__name__}: "
            "a table's name must be its own, give each collection's tables other names"
        )
    return found


def table_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weight of every table of an unsharded model, by table name: [rows, dim]."""
    return {
        table: parameter
        for name, parameter in model.named_parameters()
        if (table := table_of(name)) is not None
    }
