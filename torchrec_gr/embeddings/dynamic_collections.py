"""Embedding collections for ids without bound: they take raw ids, and need no vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from torch import Tensor, nn
from torchrec.modules.embedding_configs import PoolingType
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from torchrec_gr.embeddings.dynamic_config import (
    DynamicEmbeddingBagConfig,
    DynamicEmbeddingConfig,
)
from torchrec_gr.embeddings.dynamic_lookup import DynamicLookup
from torchrec_gr.embeddings.dynamic_table import DynamicTable
from torchrec_gr.embeddings.feature_ids import FeatureIds, TableFeatures
from torchrec_gr.embeddings.row_optimizer import applied_optimizer

Config = TypeVar("Config", bound=DynamicEmbeddingConfig)


class _Collection(nn.Module, Generic[Config]):
    """What both collections share: the tables, and the rows that a batch reads."""

    def __init__(self, tables: Sequence[Config]) -> None:
        super().__init__()
        names = [table.name for table in tables]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"expected at least one table, each of its own name, got {names}")
        self._configs = list(tables)
        self._lookup = DynamicLookup(tables)
        self._features = self.features_of(self._lookup)

    def configs(self) -> list[Config]:
        """The tables' configurations."""
        return self._configs

    def tables(self) -> list[DynamicTable]:
        """The tables."""
        return self._lookup.tables

    def features_of(self, lookup: DynamicLookup) -> TableFeatures:
        """How this collection's features read the tables of a look-up."""
        raise NotImplementedError

    def _read(self, kjt: KeyedJaggedTensor) -> tuple[FeatureIds, list[Tensor]]:
        for table in self._lookup.tables:
            table.use_optimizer(applied_optimizer(table.weight))
        batch = self._features.distinct(kjt)
        readings, training = self._features.readings(batch), self.training
        ids = batch.ids, batch.offsets, batch.counts
        return batch, self._lookup(*ids, readings, training=training)


class DynamicEmbeddingCollection(_Collection[DynamicEmbeddingConfig]):
    """TorchRec's EmbeddingCollection over dynamic tables: one row for each value.

    In training mode an id that is new gets a row (see `DynamicEmbeddingConfig`); in evaluation
    unknown ids read zeros and nothing changes. Rows are trained in the backward pass by the
    optimizer that was applied to the parameters (`apply_optimizer_in_backward` of SGD, Adagrad or
    RowWiseAdagrad), as `training.shard` does. `DynamicEmbeddingSharder` spreads the rows over
    processes under DistributedModelParallel. Tables of one width are one physical table.

    Args:
        tables: configurations; names must differ, widths may.

    Call it with a KeyedJaggedTensor of raw ids; keys that no table serves are passed over. It gives
    for each feature a JaggedTensor of values [values, dim] float32. A feature of several tables is
    named `feature@table`, as in TorchRec.

    Raises:
        ValueError: no table, or two of one name; in the call, features that are missing.

    Source: MTGRBoost (2505.12663), dynamic tables, table merging and two-stage deduplication.
    """

    TABLES = "embeddings"

    def __init__(self, tables: Sequence[DynamicEmbeddingConfig]) -> None:
        super().__init__(tables)
        self.embeddings = self._lookup.as_modules()

    def embedding_configs(self) -> list[DynamicEmbeddingConfig]:
        """The tables' configurations."""
        return self._configs

    def forward(self, features: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """The rows of each feature's values."""
        return self._features.sequences(*self._read(features))

    def features_of(self, lookup: DynamicLookup) -> TableFeatures:
        """How this collection's features read the tables of a look-up."""
        return TableFeatures(lookup.configs_by_group(), self._configs, pooled=False)


class DynamicEmbeddingBagCollection(_Collection[DynamicEmbeddingBagConfig]):
    """TorchRec's EmbeddingBagCollection over dynamic tables: one pooled row for each bag.

    As `DynamicEmbeddingCollection` otherwise; `DynamicEmbeddingBagSharder` shards it.

    Args:
        tables: configurations; names must differ.
        is_weighted: each row counts by its value's weight in the KeyedJaggedTensor.

    Call it with a KeyedJaggedTensor of raw ids of one stride B. It gives a KeyedTensor [B, sum of
    the features' dims] float32.

    Raises:
        ValueError: no table, two of one name, or weights for pooled means.
    """

    TABLES = "embedding_bags"

    def __init__(
        self, tables: Sequence[DynamicEmbeddingBagConfig], is_weighted: bool = False
    ) -> None:
        means = [table.name for table in tables if table.pooling == PoolingType.MEAN]
        if is_weighted and means:
            raise ValueError(f"tables {means} pool means, which have no weights: pool sums")
        self._is_weighted = is_weighted
        super().__init__(tables)
        self.embedding_bags = self._lookup.as_modules()

    def embedding_bag_configs(self) -> list[DynamicEmbeddingBagConfig]:
        """The tables' configurations."""
        return self._configs

    def is_weighted(self) -> bool:
        """Whether rows count by weights."""
        return self._is_weighted

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """The pooled rows of each feature's bags."""
        return self._features.bags(*self._read(features))

    def features_of(self, lookup: DynamicLookup) -> TableFeatures:
        """How this collection's features read the tables of a look-up."""
        groups, weighted = lookup.configs_by_group(), self._is_weighted
        return TableFeatures(groups, self._configs, pooled=True, weighted=weighted)
