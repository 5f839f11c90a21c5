"""Wukong: layers of factorization machines, whose order of interaction doubles with each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec.models.dlrm import DLRM, OverArch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from torchrec_gr.models.table_configs import common_width
from torchrec_gr.modules.wukong_layer import WukongLayer


@dataclasses.dataclass(frozen=True)
class WukongConfig:
    """The sizes of a Wukong; the width of its tables is theirs.

    Args:
        num_layers: after l layers, interactions are of orders up to 2^l.
        num_fmb, num_lcb: embeddings that a layer's factorization machine and its linear block make.
        rank: columns that a factorization machine projects its dot products to.
        hidden: widths of the MLP in each factorization machine; its last layer is added.
        dense_arch: hidden widths of the MLP over the dense features; its last layer, as wide as the
            tables, is added.
        over_arch: hidden widths of the MLP over the last layer's embeddings; its last layer, as
            wide as there are tasks, is added.
    """

    num_layers: int = 3
    num_fmb: int = 16
    num_lcb: int = 16
    rank: int = 8
    hidden: tuple[int, ...] = (128,)
    dense_arch: tuple[int, ...] = (64,)
    over_arch: tuple[int, ...] = (256, 128)

    def __post_init__(self) -> None:
        for name in ("num_layers", "num_fmb", "num_lcb", "rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class Wukong(DLRM):
    """TorchRec's DLRM with Wukong's layers in the place of its dot products.

    Args:
        bags: of one width.
        num_dense: columns of the dense features.
        config: sizes.
        num_tasks: logits a row.
    """

    def __init__(
        self, bags: EmbeddingBagCollection, num_dense: int, config: WukongConfig, num_tasks: int
    ) -> None:
        dim = bags.embedding_bag_configs()[0].embedding_dim
        over_arch = [*config.over_arch, num_tasks]
        super().__init__(bags, num_dense, [*config.dense_arch, dim], over_arch)
        self.inter_arch = WukongInteraction(self.sparse_arch.F + 1, dim, config)
        num_out = config.num_fmb + config.num_lcb
        self.over_arch = OverArch(in_features=num_out * dim, layer_sizes=over_arch)


class WukongInteraction(nn.Module):
    """The layers, from the embeddings of a row to one vector.

    Args:
        num_in: n, embeddings of a row: the features' and the dense features' one.
        dim: D, their width.
        config: sizes.
    """

    def __init__(self, num_in: int, dim: int, config: WukongConfig) -> None:
        super().__init__()
        num_out = config.num_fmb + config.num_lcb
        counts = [num_in, *[num_out] * (config.num_layers - 1)]
        self.layers = nn.Sequential(
            *(
                WukongLayer(count, config.num_fmb, config.num_lcb, dim, config.rank, config.hidden)
                for count in counts
            )
        )

    def forward(self, dense_features: Tensor, sparse_features: Tensor) -> Tensor:
        """Maps [B, D] and [B, n - 1, D] to [B, (num_fmb + num_lcb) * D]."""
        embeddings = torch.cat([dense_features.unsqueeze(1), sparse_features], dim=1)
        interacted: Tensor = self.layers(embeddings)
        return interacted.flatten(1)


def build_wukong(
    tables: Sequence[EmbeddingBagConfig],
    num_dense: int,
    config: WukongConfig,
    *,
    num_tasks: int = 1,
) -> Wukong:
    """Builds a Wukong.

    Args:
        tables: bags of one width; every feature of theirs is one embedding.
        num_dense: columns of the dense features, at least 1.
        config: sizes.
        num_tasks: logits a row.

    Returns:
        A module that maps (dense_features [C, num_dense] float32, sparse_features of stride C) to
        logits [C, num_tasks]. Its tables are named `sparse_arch.embedding_bag_collection.
        embedding_bags.<table>.weight`.

    Raises:
        ValueError: no tables, tables of different widths, or no dense feature.

    Source: Zhang et al., ICML 2024, 2403.02545.
    """
    common_width(tables, num_dense, "Wukong")
    bags = EmbeddingBagCollection(tables=list(tables))
    return Wukong(bags, num_dense, config, num_tasks)
