"""From an artefact to the part of it that goes into another model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from torch import nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

from torchrec_gr.embeddings.dynamic_collections import DynamicEmbeddingCollection
from torchrec_gr.embeddings.dynamic_config import DynamicEmbeddingConfig
from torchrec_gr.models.gpsd import GPSDConfig, GPSDEncoder
from torchrec_gr.pretrained.feature_mapping import FeatureMapping, MappedTable
from torchrec_gr.pretrained.impression_encoder import ImpressionBody, ImpressionEncoder

if TYPE_CHECKING:
    from torchrec_gr.pretrained.load import Pretrained


@dataclasses.dataclass(frozen=True)
class SequenceModule:
    """A sequence module without weights, and where an artefact has them.

    Args:
        encoder: see `ImpressionBody`.
        dim: D of its vectors and of its tables.
        init_std: of fresh rows of its tables.
        dense: the artefact's name of each of the encoder's parameters and buffers.
    """

    encoder: nn.Module
    dim: int
    init_std: float
    dense: Mapping[str, str]


def sequence_module(pretrained: Pretrained) -> SequenceModule:
    """The sequence module of an artefact, freshly initialised.

    Raises:
        ValueError: a kind of module that cannot be attached.
    """
    if pretrained.module != "gpsd":
        raise ValueError(
            f"{pretrained.name} holds a module of kind {pretrained.module!r}; 'gpsd' can be "
            "attached"
        )
    config = GPSDConfig(**pretrained.config)
    encoder = GPSDEncoder(config, pretrained.schema.max_history)
    dense = {name: f"body.{name}" for name in encoder.state_dict()}
    return SequenceModule(encoder, config.dim, config.init_std, dense)


def impression_encoder(
    pretrained: Pretrained, module: SequenceModule, mapping: FeatureMapping, *, deduplicate: bool
) -> ImpressionEncoder:
    """The module over the user's keys, its tables in the user's row space; all fresh.

    Raises:
        ValueError: tables of which some would be dynamic and some not.
    """
    body = ImpressionBody(
        module.encoder,
        dim=module.dim,
        history=mapping.history,
        candidates=mapping.candidates,
        max_history=pretrained.schema.max_history,
        deduplicate=deduplicate,
    )
    return ImpressionEncoder(_embeddings(pretrained, module, mapping.tables), body)


def is_dynamic(pretrained: Pretrained, table: MappedTable) -> bool:
    """Whether the user's values are raw ids, for a dynamic table to take as they come."""
    return table.row_ids is None and pretrained.tables[table.source].entry.is_dynamic


def _embeddings(
    pretrained: Pretrained, module: SequenceModule, tables: tuple[MappedTable, ...]
) -> nn.Module:
    dynamic = [table.source for table in tables if is_dynamic(pretrained, table)]
    static = [table.source for table in tables if table.source not in dynamic]
    if dynamic and static:
        raise ValueError(
            f"tables {dynamic} would be dynamic and {static} not: one collection holds one kind; "
            f"give vocabularies for {dynamic} as well"
        )
    if dynamic:
        return DynamicEmbeddingCollection(
            [
                DynamicEmbeddingConfig(
                    name=table.name,
                    embedding_dim=module.dim,
                    feature_names=list(table.keys),
                    init_std=module.init_std,
                )
                for table in tables
            ]
        )
    return EmbeddingCollection(
        tables=[
            EmbeddingConfig(
                name=table.name,
                embedding_dim=module.dim,
                num_embeddings=table.num_rows or pretrained.tables[table.source].num_rows,
                feature_names=list(table.keys),
                init_fn=partial(nn.init.normal_, std=module.init_std),
            )
            for table in tables
        ]
    )
