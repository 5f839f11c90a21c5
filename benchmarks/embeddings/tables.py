"""The tables that are measured: stock, dynamic or multi-hash ones, each of one key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchrec.distributed.types import LazyAwaitable
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.embeddings.dynamic_collections import (
    DynamicEmbeddingBagCollection,
    DynamicEmbeddingCollection,
)
from torchrec_gr.embeddings.dynamic_config import (
    DynamicEmbeddingBagConfig,
    DynamicEmbeddingConfig,
)
from torchrec_gr.embeddings.multi_hash import (
    MultiHashEmbeddingBagCollection,
    MultiHashEmbeddingCollection,
)
from torchrec_gr.embeddings.multi_hash_config import (
    MultiHashEmbeddingBagConfig,
    MultiHashEmbeddingConfig,
)

LookUp = Literal["bags", "sequences"]
Fill = Callable[[Tensor], Any]


class Tables(NamedTuple):
    """Some tables of one width, alike.

    Args:
        look_up: what is done with the ids of a row.
        num_tables, width: of them.
    """

    look_up: LookUp
    num_tables: int
    width: int

    @property
    def keys(self) -> list[str]:
        """The key of each table."""
        return [f"feature_{number}" for number in range(self.num_tables)]

    @property
    def names(self) -> list[str]:
        """The name of each table."""
        return [f"table_{number}" for number in range(self.num_tables)]

    def stock(self, num_rows: int, fill: Fill | None = None) -> nn.Module:
        """TorchRec's."""
        tables = self._configs(num_embeddings=num_rows, init_fn=fill)
        if self.look_up == "bags":
            return EmbeddingBagCollection(tables=[EmbeddingBagConfig(**table) for table in tables])
        return EmbeddingCollection(tables=[EmbeddingConfig(**table) for table in tables])

    def dynamic(self) -> nn.Module:
        """Dynamic ones without a budget."""
        tables = self._configs()
        if self.look_up == "bags":
            return DynamicEmbeddingBagCollection(
                tables=[DynamicEmbeddingBagConfig(**table) for table in tables]
            )
        return DynamicEmbeddingCollection(
            tables=[DynamicEmbeddingConfig(**table) for table in tables]
        )

    def multi_hash(self, num_rows: int, num_hashes: int, fill: Fill) -> nn.Module:
        """Multi-hash ones with `num_rows` rows in each sub-table."""
        tables = self._configs(num_embeddings=num_rows, num_hashes=num_hashes, init_fn=fill)
        if self.look_up == "bags":
            return MultiHashEmbeddingBagCollection(
                tables=[MultiHashEmbeddingBagConfig(**table) for table in tables]
            )
        return MultiHashEmbeddingCollection(
            tables=[MultiHashEmbeddingConfig(**table) for table in tables]
        )

    def _configs(self, **further: Any) -> list[dict[str, Any]]:
        return [
            {"name": name, "embedding_dim": self.width, "feature_names": [key]} | further
            for name, key in zip(self.names, self.keys, strict=True)
        ]


class Reader(nn.Module):
    """Looks ids up.

    Args:
        collection: of bags or sequences.
    """

    def __init__(self, collection: nn.Module) -> None:
        super().__init__()
        self.collection = collection

    def forward(self, kjt: KeyedJaggedTensor) -> list[Tensor]:
        """[N, width] of each key: a row for each bag, or for each id."""
        found = self.collection(kjt)
        if isinstance(found, LazyAwaitable):
            found = found.wait()
        keys = kjt.keys()
        values = [found[key] for key in keys]
        return [v if isinstance(v, Tensor) else v.values() for v in values]


def looked_up(model: nn.Module, kjt: KeyedJaggedTensor) -> list[Tensor]:
    """What the model reads without training on it."""
    model.eval()
    with torch.no_grad():
        values: list[Tensor] = model(kjt)
    return values


def kjt_like(kjt: KeyedJaggedTensor, values: Tensor) -> KeyedJaggedTensor:
    """The same rows with other values."""
    return KeyedJaggedTensor(kjt.keys(), values, lengths=kjt.lengths())
