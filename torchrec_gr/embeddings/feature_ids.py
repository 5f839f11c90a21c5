"""A batch's ids table by table, each once, and the way back from their rows to the features."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torchrec.modules.embedding_configs import PoolingType
from torchrec.modules.embedding_modules import get_embedding_names_by_table
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from torchrec_gr.embeddings.dynamic_config import (
    DynamicEmbeddingBagConfig,
    DynamicEmbeddingConfig,
)
from torchrec_gr.embeddings.table_group import Reading
from torchrec_gr.ops import unique_ids


@dataclasses.dataclass(frozen=True)
class FeatureIds:
    """The ids that some tables are asked for.

    Args:
        features: the tables' features alone, table by table.
        ids: [n] int64, table by table, those of a table different from each other.
        offsets: [tables + 1] int64.
        inverse: [values] int64: the place among `ids` of each value of `features`.
        counts: [n] int64: how often each id is among the values.
    """

    features: KeyedJaggedTensor
    ids: Tensor
    offsets: Tensor
    inverse: Tensor
    counts: Tensor


class TableFeatures:
    """Which features belong to which tables, in groups of tables of one width.

    Args:
        groups: the tables' configurations.
        tables: the same in the user's order.
        pooled: whether a feature's values are summed in bags.
        weighted: whether they count by their weights there.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[DynamicEmbeddingConfig]],
        tables: Sequence[DynamicEmbeddingConfig],
        *,
        pooled: bool = False,
        weighted: bool = False,
    ) -> None:
        self._pooled, self._weighted = pooled, weighted
        names_by_table = get_embedding_names_by_table(list(tables))  # type: ignore[arg-type]
        names = {table.name: n for table, n in zip(tables, names_by_table, strict=True)}
        merged = [table for group in groups for table in group]
        self._keys = [key for table in merged for key in table.feature_names]
        self._names = [name for table in merged for name in names[table.name]]
        self._names_in_order = [name for table in tables for name in names[table.name]]
        self._ends = torch.tensor([0, *(len(t.feature_names) for t in merged)]).cumsum(0)
        self._num_tables = [len(group) for group in groups]
        self._num_features = [sum(len(t.feature_names) for t in group) for group in groups]
        self._dims = {n: t.embedding_dim for t in tables for n in names[t.name]}
        self._means = {
            name
            for table in tables
            if isinstance(table, DynamicEmbeddingBagConfig) and table.pooling == PoolingType.MEAN
            for name in names[table.name]
        }
        self._order: dict[tuple[str, ...], list[int]] = {}

    def distinct(self, kjt: KeyedJaggedTensor, *, deduplicate: bool = True) -> FeatureIds:
        """The ids of a batch, those of each table once; all of them where not `deduplicate`.

        Raises:
            ValueError: the batch lacks a feature, or its ids are not integers.
        """
        features = self._select(kjt)
        values = features.values()
        if values.is_floating_point():
            raise ValueError(f"ids must be integers, got values of {values.dtype}")
        ids = values.to(torch.int64)
        offsets = torch.tensor(features.offset_per_key())[self._ends]
        if deduplicate:
            return FeatureIds(features, *unique_ids(ids, offsets))
        return FeatureIds(features, ids, offsets, torch.arange(ids.shape[0]), torch.ones_like(ids))

    def readings(self, batch: FeatureIds) -> list[Reading]:
        """Of each group, how the rows of its ids are read for its features' values, or bags."""
        features = batch.features
        sizes = self._values_by_group(features)
        first_tables = torch.tensor([0, *self._num_tables]).cumsum(0)[:-1]
        firsts = batch.offsets[first_tables].tolist()
        index = [
            part - first for part, first in zip(batch.inverse.split(sizes), firsts, strict=True)
        ]
        if not self._pooled:
            return [Reading(places) for places in index]
        stride = features.stride()
        lengths = features.lengths().to(torch.int64)
        bags = [
            torch.ops.fbgemm.asynchronous_complete_cumsum(part)
            for part in lengths.split([num * stride for num in self._num_features])
        ]
        factors = features.weights().split(sizes) if self._weighted else [None] * len(sizes)
        return [Reading(*reading) for reading in zip(index, bags, factors, strict=True)]

    def sequences(self, batch: FeatureIds, values: Sequence[Tensor]) -> dict[str, JaggedTensor]:
        """Of each feature, the rows of its values.

        Args:
            batch: what was asked for.
            values: of each group [values, dim], the rows of its features' values.
        """
        features = batch.features
        ends = torch.tensor(features.offset_per_key())
        lengths = features.lengths().split(features.stride_per_key())
        found: dict[str, JaggedTensor] = {}
        first = 0
        for group_values, num in zip(values, self._num_features, strict=True):
            last = first + num
            parts = group_values.split(ends[first : last + 1].diff().tolist())
            for feature, part in zip(range(first, last), parts, strict=True):
                found[self._names[feature]] = JaggedTensor(part, lengths=lengths[feature])
            first = last
        return {name: found[name] for name in self._names_in_order}

    def bags(self, batch: FeatureIds, sums: Sequence[Tensor]) -> KeyedTensor:
        """Of each feature, the pooled rows of its bags.

        Args:
            batch: what was asked for.
            sums: of each group [bags, dim], the summed rows of its features' bags.
        """
        stride = batch.features.stride()
        lengths = batch.features.lengths().view(len(self._names), stride)
        found: dict[str, Tensor] = {}
        first = 0
        for num, group_sums in zip(self._num_features, sums, strict=True):
            names = self._names[first : first + num]
            found |= zip(names, group_sums.view(num, stride, group_sums.shape[1]), strict=True)
            first += num
        for name, num_values in zip(self._names, lengths, strict=True):
            if name in self._means:
                found[name] = found[name] / num_values.clamp(min=1).unsqueeze(1)
        names = self._names_in_order
        return KeyedTensor(
            keys=names,
            length_per_key=[self._dims[name] for name in names],
            values=torch.cat([found[name] for name in names], dim=1),
        )

    def _select(self, kjt: KeyedJaggedTensor) -> KeyedJaggedTensor:
        keys = tuple(kjt.keys())
        if keys not in self._order:
            missing = sorted(set(self._keys) - set(keys))
            if missing:
                raise ValueError(f"the batch lacks features {missing}: its keys are {list(keys)}")
            self._order[keys] = [keys.index(key) for key in self._keys]
        return kjt.permute(self._order[keys])

    def _values_by_group(self, features: KeyedJaggedTensor) -> list[int]:
        ends = torch.tensor([0, *self._num_features]).cumsum(0)
        return torch.tensor(features.offset_per_key())[ends].diff().tolist()
