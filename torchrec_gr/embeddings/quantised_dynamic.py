"""Dynamic tables for serving: a map from ids to rows that only reads, and quantised rows."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import get_embedding_names_by_table
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from torchrec_gr.embeddings.dynamic_config import (
    DynamicEmbeddingBagConfig,
    DynamicEmbeddingConfig,
)
from torchrec_gr.embeddings.dynamic_table import DynamicTable
from torchrec_gr.embeddings.feature_ids import TableFeatures
from torchrec_gr.embeddings.id_rows import IdRows
from torchrec_gr.embeddings.quantised_tables import (
    Collection,
    quantised_bags,
    quantised_collection,
    store_rows,
    table_bytes,
)

_CPU = torch.device("cpu")


class _QuantisedDynamic(nn.Module, abc.ABC):
    """What both collections share: the ids, and how rows come in.

    Row 0 of a table is of zeros and serves the ids that it does not know. The state dict holds
    "ids" [n] int64, table by table, "offsets" [tables + 1] and the rows, "rows.<width>..."; any
    number of them can be loaded.

    Args:
        tables: configurations.
        bits: of a number in a row.
    """

    ids: Tensor
    offsets: Tensor

    def __init__(self, tables: Sequence[DynamicEmbeddingConfig], bits: int) -> None:
        super().__init__()
        self._bits = bits
        widths = dict.fromkeys(table.embedding_dim for table in tables)
        groups = [[t for t in tables if t.embedding_dim == width] for width in widths]
        self._tables = [table for group in groups for table in group]
        self._features = TableFeatures(groups, tables)
        # Typed for TorchRec's configurations, whose names and features alone it reads.
        names = get_embedding_names_by_table(list(tables))  # type: ignore[arg-type]
        self._names = {table.name: n for table, n in zip(tables, names, strict=True)}
        self._hold([torch.empty(0, dtype=torch.int64) for _ in tables])

    @property
    def tables(self) -> list[DynamicEmbeddingConfig]:
        """The tables' configurations, those of one width together."""
        return self._tables

    @property
    def num_bytes(self) -> int:
        """Of rows, ids and map."""
        return table_bytes(self) + self.ids.nbytes + self._id_rows.num_bytes

    def take_rows(self, tables: Sequence[DynamicTable]) -> None:
        """Forgets its rows, and quantises copies of those of dynamic tables of the same names."""
        by_name = {table.config.name: table for table in tables}
        in_order = [by_name[config.name] for config in self._tables]
        none = torch.empty(0, dtype=torch.int64)
        self._hold([torch.cat([none, *(r.ids for r in t.live_chunks())]) for t in in_order])
        for config, table in zip(self._tables, in_order, strict=True):
            first = 1
            for rows in table.live_chunks():
                store_rows(self.rows[str(config.embedding_dim)], config.name, rows.weight, first)
                first += len(rows.ids)

    @abc.abstractmethod
    def _make_rows(self, tables: Sequence[Any]) -> Collection:
        """Quantised tables of one width, of zeros."""

    def _hold(self, ids: Sequence[Tensor]) -> None:
        """Knows these ids of each table from now on; their rows are zeros."""
        num_ids = [len(part) for part in ids]
        self.register_buffer("ids", torch.cat(list(ids)))
        self.register_buffer("offsets", torch.tensor([0, *num_ids]).cumsum(0))
        self._id_rows = IdRows(self.ids, self.offsets)
        by_width: dict[str, list[dict[str, Any]]] = {}
        for table, num in zip(self._tables, num_ids, strict=True):
            by_width.setdefault(str(table.embedding_dim), []).append(
                {
                    "name": table.name,
                    "embedding_dim": table.embedding_dim,
                    "num_embeddings": 1 + num,
                    "feature_names": self._names[table.name],
                }
            )
        self.rows = nn.ModuleDict({w: self._make_rows(tables) for w, tables in by_width.items()})

    def _numbered(self, kjt: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """Raw ids replaced by their rows."""
        batch = self._features.distinct(kjt, deduplicate=False)
        return KeyedJaggedTensor(
            keys=[name for table in self._tables for name in self._names[table.name]],
            values=self._id_rows.find(batch.ids, batch.offsets),
            weights=batch.features.weights_or_none(),
            lengths=batch.features.lengths(),
            stride=batch.features.stride(),
        )

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        ids, offsets = (state_dict.get(prefix + name) for name in ("ids", "offsets"))
        if ids is not None and offsets is not None and offsets.shape == self.offsets.shape:
            self._hold(ids.clone().tensor_split(offsets[1:-1]))
        super()._load_from_state_dict(state_dict, prefix, *rest)  # type: ignore[no-untyped-call]


class QuantisedDynamicEmbeddingCollection(_QuantisedDynamic):
    """A DynamicEmbeddingCollection in evaluation mode, quantised; `quantise` makes it.

    Call it with a KeyedJaggedTensor of raw ids: it gives what that one does.
    """

    def forward(self, features: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """The rows of each feature's values."""
        numbered = self._numbered(features)
        found: dict[str, JaggedTensor] = {}
        for rows in self.rows.values():
            found |= rows(numbered)
        return {name: found[name] for names in self._names.values() for name in names}

    def _make_rows(self, tables: Sequence[dict[str, Any]]) -> Collection:
        return quantised_collection([EmbeddingConfig(**t) for t in tables], self._bits, _CPU)


class QuantisedDynamicEmbeddingBagCollection(_QuantisedDynamic):
    """A DynamicEmbeddingBagCollection in evaluation mode, quantised; `quantise` makes it.

    Call it with a KeyedJaggedTensor of raw ids: it gives what that one does.

    Args:
        tables: configurations.
        bits: of a number in a row.
        is_weighted: each row counts by its value's weight.
    """

    def __init__(
        self, tables: Sequence[DynamicEmbeddingBagConfig], bits: int, is_weighted: bool
    ) -> None:
        self._pooling = {table.name: table.pooling for table in tables}
        self._is_weighted = is_weighted
        super().__init__(tables, bits)

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """The pooled rows of each feature's bags."""
        numbered = self._numbered(features)
        found: dict[str, Tensor] = {}
        for rows in self.rows.values():
            found |= rows(numbered).to_dict()
        names = [name for names in self._names.values() for name in names]
        values = [found[name] for name in names]
        return KeyedTensor(names, [part.shape[1] for part in values], torch.cat(values, dim=1))

    def _make_rows(self, tables: Sequence[dict[str, Any]]) -> Collection:
        configs = [EmbeddingBagConfig(**t, pooling=self._pooling[t["name"]]) for t in tables]
        return quantised_bags(configs, self._bits, _CPU, is_weighted=self._is_weighted)
