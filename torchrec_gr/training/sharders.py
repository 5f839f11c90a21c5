"""The sharders of embedding collections: TorchRec's, opened where they run more than they offer."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.types import ModuleSharder, ShardingType

from torchrec_gr.embeddings.dynamic_sharding import (
    DynamicEmbeddingBagSharder,
    DynamicEmbeddingSharder,
)


class RowWiseBagSharder(EmbeddingBagCollectionSharder):
    """Shards EmbeddingBagCollections; offers ROW_WISE on CPU, too, which the stock sharder runs.

    A planner that is handed it, ours or any of TorchRec's, may split a table that is too large for
    one process.
    """

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """The ways that a table may be sharded on a device."""
        types: list[str] = super().sharding_types(compute_device_type)
        row_wise = ShardingType.ROW_WISE.value
        return types if row_wise in types else [*types, row_wise]


def sharders() -> list[ModuleSharder[Any]]:
    """A sharder for each type of embedding collection."""
    return [
        EmbeddingCollectionSharder(),
        RowWiseBagSharder(),
        DynamicEmbeddingSharder(),
        DynamicEmbeddingBagSharder(),
    ]


def sharder_of(module: nn.Module) -> ModuleSharder[Any]:
    """The sharder of an embedding collection.

    Raises:
        ValueError: there is none for its type.
    """
    for sharder in sharders():
        if type(module) is sharder.module_type:
            return sharder
    types = [sharder.module_type.__name__ for sharder in sharders()]
    raise ValueError(
        f"no sharder takes a {type(module).__name__}: expected one of {types} itself, not a class "
        "derived from it"
    )
