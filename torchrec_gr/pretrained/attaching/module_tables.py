"""The tables of a sequence module in the user's row space, and where an artefact has their rows."""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

from torchrec_gr.embeddings.dynamic_collections import DynamicEmbeddingCollection
from torchrec_gr.embeddings.dynamic_config import DynamicEmbeddingConfig
from torchrec_gr.embeddings.multi_hash import MultiHashEmbeddingCollection
from torchrec_gr.embeddings.multi_hash_config import MultiHashEmbeddingConfig, hashed_name
from torchrec_gr.pretrained.attaching.encoders import POSITIVES, Description, SequenceModule
from torchrec_gr.pretrained.attaching.feature_mapping import FeatureMapping, MappedTable
from torchrec_gr.pretrained.attaching.item_ids import ItemIds
from torchrec_gr.schema.raw_id_keys import raw_id_keys
from torchrec_gr.schema.vocabulary import Vocabulary
from torchrec_gr.training.transfer_plan import SAME_ROWS, TablePlan


class ModuleTables:
    """The tables that a module reads.

    Args:
        description: of the module.
        module: built from it.
        mapping: which of the user's keys read which table.

    Raises:
        ValueError: tables of which some would be dynamic and some not, or what a tuning asks for
            does not go with them.
    """

    def __init__(
        self, description: Description, module: SequenceModule, mapping: FeatureMapping
    ) -> None:
        self._module = module
        self._mapping = mapping
        self._rows = {name: v.num_rows for name, v in description.vocabularies.items()}
        self._content = dict(module.tuning.content) if module.tuning else {}
        self._replaced = module.tuning.replace_candidate if module.tuning else 0.0
        self.hashed = self._hashed(description)
        self._stock = [table for table in mapping.tables if table is not self.hashed]
        self._require_one_kind()
        self._require_own_keys()

    @property
    def content(self) -> tuple[str, ...]:
        """Names of the content's tables, which no artefact has."""
        return tuple(f"pretrained_content_{key}" for key in self._content)

    def plans(self) -> dict[str, TablePlan]:
        """By the table's name in the user's model, where the artefact has its rows."""
        found = {}
        for table in self._mapping.tables:
            if table is self.hashed:
                for function in range(self._config(table).num_hashes):
                    name = self._config(table).sub_table(function)
                    found[name] = TablePlan(hashed_name(table.source, function), SAME_ROWS)
            else:
                rows = SAME_ROWS if table.row_ids is None else table.row_ids
                found[table.name] = TablePlan(
                    table.source, None if self._is_dynamic(table) else rows
                )
        return found

    def embeddings(self) -> nn.Module | None:
        """The collection of all but a multi-hash table; None: there is no other."""
        dim, std = self._module.dim, self._module.init_std
        if any(map(self._is_dynamic, self._stock)):
            return DynamicEmbeddingCollection(
                [
                    DynamicEmbeddingConfig(
                        name=table.name,
                        embedding_dim=dim,
                        feature_names=list(table.keys),
                        init_std=std,
                    )
                    for table in self._stock
                ]
            )
        sizes = [(table.name, self._num_rows(table), list(table.keys)) for table in self._stock]
        contents = zip(self.content, self._content.items(), strict=True)
        sizes += [(name, num_rows, [key]) for name, (key, num_rows) in contents]
        tables = [
            EmbeddingConfig(
                name=name,
                embedding_dim=dim,
                num_embeddings=num_rows,
                feature_names=keys,
                init_fn=partial(nn.init.normal_, std=std),
            )
            for name, num_rows, keys in sizes
        ]
        return EmbeddingCollection(tables=tables) if tables else None

    def items(self) -> nn.Module | None:
        """The collection of the item's multi-hash table."""
        if self.hashed is None:
            return None
        return MultiHashEmbeddingCollection([self._config(self.hashed)])

    def item_ids(self) -> nn.Module | None:
        """What stands before the item's table; None where it reads the batch as it is."""
        row_keys = self.row_keys()
        if row_keys is None and not self._replaced:
            return None
        item = self._mapping.tables[0]
        if self.hashed is None:
            keys = [*(key for table in self._stock for key in table.keys), *self._content]
        else:
            keys = list(item.keys)
        return ItemIds(
            keys,
            self._mapping.candidates[0],
            row_keys=row_keys,
            num_rows=None if self.hashed is not None else self._num_rows(item),
            replaced=self._replaced,
        )

    def row_keys(self) -> Tensor | None:
        """[rows] int64: the raw id of each of the user's rows, for a multi-hash table."""
        if self.hashed is None or self.hashed.row_ids is None:
            return None
        return torch.from_numpy(raw_id_keys(_row_ids(self.hashed.row_ids)))

    def _hashed(self, description: Description) -> MappedTable | None:
        if self._module.item is None or self._module.item_table is None:
            return None
        source = description.schema.feature(self._module.item).table
        return next(table for table in self._mapping.tables if table.source == source)

    def _config(self, table: MappedTable) -> MultiHashEmbeddingConfig:
        assert self._module.item_table is not None
        return self._module.item_table(table.name, list(table.keys))

    def _is_dynamic(self, table: MappedTable) -> bool:
        """Whether the user's values are raw ids, for a dynamic table to take as they come."""
        return table.row_ids is None and table.source not in self._rows

    def _num_rows(self, table: MappedTable) -> int:
        return table.num_rows or self._rows[table.source]

    def _require_one_kind(self) -> None:
        dynamic = [table.source for table in self._stock if self._is_dynamic(table)]
        static = [table.source for table in self._stock if not self._is_dynamic(table)]
        if dynamic and (static or self._content):
            others = static or list(self.content)
            raise ValueError(
                f"tables {dynamic} would be dynamic and {others} not: one collection holds one "
                f"kind; give vocabularies for {dynamic} as well"
            )
        if dynamic and self._replaced:
            raise ValueError(
                f"replace_candidate={self._replaced}, but tables {dynamic} are dynamic, where a "
                f"random id would get a row of its own: give vocabularies for {dynamic}"
            )

    def _require_own_keys(self) -> None:
        """One key reads one table."""
        mapped = {*self._mapping.history, *self._mapping.candidates}
        twice = sorted(mapped & set(self._content))
        if twice:
            raise ValueError(
                f"content keys {twice} are mapped in features or candidate already: the candidate "
                "has that embedding; give keys of their own for content"
            )


def positive_rows(description: Description, mapping: FeatureMapping) -> dict[str, tuple[int, ...]]:
    """By history key the user's rows of what pretraining took for positive events.

    Raises:
        ValueError: a feature that decides it is left out, or nobody knows what its rows stand for.
    """
    found = {}
    row_ids = {table.source: table.row_ids for table in mapping.tables}
    keys = dict(zip(mapping.features, mapping.history, strict=True))
    for feature, rows in description.config.get(POSITIVES, {}).items():
        if feature not in keys:
            raise ValueError(
                f"next_token_weight: {feature!r} says which events are positive, but features "
                "leaves it out: map it to a key"
            )
        table = description.schema.feature(feature).table
        ids = row_ids[table]
        if ids is not None:
            if table not in description.vocabularies:
                raise ValueError(
                    f"next_token_weight: {description.name} has no vocabulary of {table!r}, so "
                    f"nobody knows which of your rows its positive rows {list(rows)} are"
                )
            own = description.vocabularies[table].row_ids().take(pa.array(rows, pa.int64()))
            is_positive = pc.is_in(_row_ids(ids), value_set=own.drop_null())
            rows = is_positive.to_numpy(zero_copy_only=False).nonzero()[0].tolist()
        found[keys[feature]] = tuple(rows)
    return found


def _row_ids(given: pa.Array | Vocabulary) -> pa.Array:
    return given.row_ids() if isinstance(given, Vocabulary) else given
