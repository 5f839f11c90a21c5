"""Vanilla DLRM and DLRM_DCN: TorchRec's own, from a short configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn
from torchrec.models.dlrm import DLRM, DLRM_DCN
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from torchrec_gr.embeddings.dynamic_collections import DynamicEmbeddingBagCollection
from torchrec_gr.embeddings.dynamic_config import DynamicEmbeddingBagConfig
from torchrec_gr.models.table_configs import common_width

Interaction = Literal["dot", "dcn"]


@dataclasses.dataclass(frozen=True)
class DLRMConfig:
    """The sizes of a DLRM; the width of its tables is theirs.

    Args:
        dense_arch: hidden widths of the MLP over the dense features; its last layer, as wide as the
            tables, is added.
        over_arch: hidden widths of the MLP over the interactions; its last layer, as wide as there
            are tasks, is added.
        interaction: "dot" (DLRM) or "dcn" (DLRM_DCN, low-rank deep cross network).
        num_cross_layers, cross_rank: of the deep cross network.
    """

    dense_arch: tuple[int, ...] = (64,)
    over_arch: tuple[int, ...] = (256, 128)
    interaction: Interaction = "dot"
    num_cross_layers: int = 3
    cross_rank: int = 64

    def __post_init__(self) -> None:
        if self.interaction not in ("dot", "dcn"):
            raise ValueError(f"interaction: expected 'dot' or 'dcn', got {self.interaction!r}")


def build_dlrm(
    tables: Sequence[EmbeddingBagConfig] | Sequence[DynamicEmbeddingBagConfig],
    num_dense: int,
    config: DLRMConfig,
    *,
    num_tasks: int = 1,
) -> nn.Module:
    """Builds the baseline.

    Args:
        tables: bags of one width, all of TorchRec's or all dynamic; every feature of theirs is one
            interacting vector.
        num_dense: columns of the dense features, at least 1.
        config: sizes.
        num_tasks: logits a row.

    Returns:
        A module that maps (dense_features [C, num_dense] float32, sparse_features of stride C) to
        logits [C, num_tasks]. Its tables are named `sparse_arch.embedding_bag_collection.
        embedding_bags.<table>.weight`.

    Raises:
        ValueError: no tables, tables of different widths or of both kinds, or no dense feature.

    Source: Naumov et al., 1906.00091; DCN v2: Wang et al., 2008.13535. TorchRec's implementation.
    """
    dim = common_width(tables, num_dense, "DLRM")
    bags: Any = _collection(tables)  # TorchRec's models ask for no more than both kinds have
    dense_arch = [*config.dense_arch, dim]
    over_arch = [*config.over_arch, num_tasks]
    if config.interaction == "dot":
        return DLRM(bags, num_dense, dense_arch, over_arch)
    return DLRM_DCN(
        bags, num_dense, dense_arch, over_arch, config.num_cross_layers, config.cross_rank
    )


def _collection(
    tables: Sequence[EmbeddingBagConfig] | Sequence[DynamicEmbeddingBagConfig],
) -> nn.Module:
    dynamic = [table for table in tables if isinstance(table, DynamicEmbeddingBagConfig)]
    stock = [table for table in tables if isinstance(table, EmbeddingBagConfig)]
    if dynamic and stock:
        raise ValueError(
            f"tables: {[table.name for table in dynamic]} are dynamic, "
            f"{[table.name for table in stock]} are not: one collection holds one kind, make them "
            "all dynamic"
        )
    if dynamic:
        return DynamicEmbeddingBagCollection(tables=dynamic)
    return EmbeddingBagCollection(tables=stock)
