"""Embeddings of ids of any value: several hash functions, a sub-table each, concatenated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from torchrec_gr.embeddings.multi_hash_config import (
    HashSlots,
    MultiHashEmbeddingBagConfig,
    MultiHashEmbeddingConfig,
    hashed_name,
)


class MultiHashEmbeddingCollection(nn.Module):
    """Unpooled embeddings from multi-hash tables, used as TorchRec's EmbeddingCollection is.

    The sub-tables are a stock EmbeddingCollection, which DistributedModelParallel shards and
    TorchRec quantises like any other. Their weights are named
    `<path>.sub_tables.embeddings.<table>_hash<k>.weight`.

    In TorchRec's train pipelines the sub-tables' exchange of ids is pipelined only under
    `pipeline_postproc=True`, since the ids are hashed inside forward; without it results are the
    same, in a longer step.

    Args:
        tables: their sub-tables have one width, and each feature belongs to one table.
        device: of the sub-tables.

    Raises:
        ValueError: tables, features or widths that do not go together.
    """

    def __init__(
        self, tables: Sequence[MultiHashEmbeddingConfig], device: torch.device | None = None
    ) -> None:
        super().__init__()
        widths = {table.name: table.sub_dim for table in tables}
        if len(set(widths.values())) > 1:
            raise ValueError(
                f"sub-tables of one collection must have one width, embedding_dim / num_hashes; "
                f"got {widths}: put tables of other widths into a collection of their own"
            )
        self.tables = tuple(tables)
        self.sub_tables = EmbeddingCollection(
            tables=[
                EmbeddingConfig(**_sub_table(table, function))
                for table in tables
                for function in range(table.num_hashes)
            ],
            device=device,
        )
        self._hash = _Hash(self.tables)
        self._join = _JoinRows(self.tables)

    def forward(self, kjt: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """Looks up raw ids.

        Args:
            kjt: raw ids, of the tables' features at least.

        Returns:
            By feature, its values' embeddings [values, embedding_dim] float32.

        Raises:
            ValueError: a feature is missing, or keys differ in their number of rows.
        """
        return self._join(self.sub_tables(self._hash(kjt)))


class MultiHashEmbeddingBagCollection(nn.Module):
    """Pooled embeddings from multi-hash tables, used as TorchRec's EmbeddingBagCollection is.

    The sub-tables are a stock EmbeddingBagCollection; their weights are named
    `<path>.sub_tables.embedding_bags.<table>_hash<k>.weight`. Train pipelines as
    `MultiHashEmbeddingCollection` says.

    Args:
        tables: each feature belongs to one table; widths may differ.
        is_weighted: values have weights, by which their rows are multiplied.
        device: of the sub-tables.

    Raises:
        ValueError: tables or features that do not go together.
    """

    def __init__(
        self,
        tables: Sequence[MultiHashEmbeddingBagConfig],
        is_weighted: bool = False,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.tables = tuple(tables)
        self.sub_tables = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(**_sub_table(table, function), pooling=table.pooling)
                for table in tables
                for function in range(table.num_hashes)
            ],
            is_weighted=is_weighted,
            device=device,
        )
        self._hash = _Hash(self.tables)
        self._join = _JoinBags(self.tables)

    def forward(self, kjt: KeyedJaggedTensor) -> KeyedTensor:
        """Looks up and pools raw ids.

        Args:
            kjt: raw ids, of the tables' features at least; weights if `is_weighted`.

        Returns:
            By feature, its bags' embeddings [rows, embedding_dim] float32.

        Raises:
            ValueError: a feature is missing, or keys differ in their number of rows.
        """
        return self._join(self.sub_tables(self._hash(kjt)))


def hash_slots(model: nn.Module) -> dict[str, HashSlots]:
    """What the rows of every multi-hash table of a model are, sharded or not, by sub-table."""
    return {
        table.sub_table(function): table.slots(function)
        for module in model.modules()
        if isinstance(module, (MultiHashEmbeddingCollection, MultiHashEmbeddingBagCollection))
        for table in module.tables
        for function in range(table.num_hashes)
    }


# What stands before and after the sub-tables are modules of their own because TorchRec's pipelines
# trace forward: they step into no module that holds no table.
class _Hash(nn.Module):
    """From raw ids to a key for each feature and hash function, whose values are rows."""

    def __init__(self, tables: Sequence[MultiHashEmbeddingConfig]) -> None:
        super().__init__()
        self._tables = tables
        self._features = [name for table in tables for name in table.feature_names]
        self._num_features = [len(table.feature_names) for table in tables]
        self._keys = [key for table in tables for key in _keys(table)]
        if len(set(self._keys)) < len(self._keys):
            raise ValueError(
                f"each feature must belong to one multi-hash table and be named once, got "
                f"{self._features}"
            )

    def forward(self, kjt: KeyedJaggedTensor) -> KeyedJaggedTensor:
        missing = sorted(set(self._features) - set(kjt.keys()))
        if missing:
            raise ValueError(f"the batch lacks the features {missing}: it has {kjt.keys()}")
        if kjt.variable_stride_per_key():
            raise ValueError(
                "multi-hash tables need as many rows of every key: pass a KeyedJaggedTensor of one "
                "stride"
            )
        features = kjt.permute([kjt.keys().index(name) for name in self._features])
        parts = features.split(self._num_features)
        repeated = [
            part
            for table, part in zip(self._tables, parts, strict=True)
            for _ in range(table.num_hashes)
        ]
        rows = [
            table.hash(part.values().long(), function)
            for table, part in zip(self._tables, parts, strict=True)
            for function in range(table.num_hashes)
        ]
        weighted = kjt.weights_or_none() is not None
        return KeyedJaggedTensor(
            keys=self._keys,
            values=torch.cat(rows),
            weights=torch.cat([part.weights() for part in repeated]) if weighted else None,
            lengths=torch.cat([part.lengths() for part in repeated]),
            stride=kjt.stride(),
        )


class _JoinRows(nn.Module):
    """Concatenates what the sub-tables give for a feature's values."""

    def __init__(self, tables: Sequence[MultiHashEmbeddingConfig]) -> None:
        super().__init__()
        self._parts = _parts(tables)

    def forward(self, rows: Mapping[str, JaggedTensor]) -> dict[str, JaggedTensor]:
        return {
            feature: JaggedTensor(
                values=torch.cat([rows[key].values() for key in keys], dim=1),
                lengths=rows[keys[0]].lengths(),
            )
            for feature, keys in self._parts.items()
        }


class _JoinBags(nn.Module):
    """Concatenates what the sub-tables give for a feature's bags."""

    def __init__(self, tables: Sequence[MultiHashEmbeddingConfig]) -> None:
        super().__init__()
        self._parts = _parts(tables)
        self._widths = [table.embedding_dim for table in tables for _ in table.feature_names]

    def forward(self, bags: KeyedTensor) -> KeyedTensor:
        # By name: a sharded collection orders its keys as it likes.
        values = [bags[key] for keys in self._parts.values() for key in keys]
        return KeyedTensor(list(self._parts), self._widths, torch.cat(values, dim=1))


def _sub_table(table: MultiHashEmbeddingConfig, function: int) -> dict[str, object]:
    return {
        "name": table.sub_table(function),
        "embedding_dim": table.sub_dim,
        "num_embeddings": table.num_embeddings,
        "feature_names": [hashed_name(feature, function) for feature in table.feature_names],
        "init_fn": table.init_fn,
    }


def _keys(table: MultiHashEmbeddingConfig) -> list[str]:
    """The keys of the hashed batch in the order of the sub-tables."""
    functions = range(table.num_hashes)
    return [
        hashed_name(feature, function) for function in functions for feature in table.feature_names
    ]


def _parts(tables: Sequence[MultiHashEmbeddingConfig]) -> dict[str, list[str]]:
    """Of which keys of the hashed batch each feature's embedding is made."""
    return {
        feature: [hashed_name(feature, function) for function in range(table.num_hashes)]
        for table in tables
        for feature in table.feature_names
    }
