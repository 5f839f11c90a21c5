"""Next-item recommenders of many sizes, whose item tables are all alike."""

from __future__ import annotations

import dataclasses
import re
from typing import cast

import torch
from torch import Tensor, nn

from pipelines.recommending.models import build_recommender, hstu_config
from pipelines.recommending.settings import NextItemSettings
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.relative_bias import RelativeBias
from torchrec_gr.modules.sequence_trunk import SequenceTrunk, TrunkConfig


@dataclasses.dataclass(frozen=True)
class Size:
    """A trunk's layers, its width and its heads; "L4D48H2" in words.

    Raises:
        ValueError: heads that do not divide the width, or a number below 1.
    """

    num_layers: int
    dim: int
    num_heads: int

    def __post_init__(self) -> None:
        self.of(TrunkConfig())

    @classmethod
    def parse(cls, name: str) -> Size:
        """Reads "L4D48H2"; without heads, "L4D48", it is one.

        Raises:
            ValueError: not such a word, or a size that cannot be.
        """
        match = re.fullmatch(r"L(\d+)D(\d+)(?:H(\d+))?", name)
        if match is None:
            raise ValueError(f"size {name!r}: expected layers, width and heads as in L4D48H2")
        return cls(int(match[1]), int(match[2]), int(match[3] or 1))

    @property
    def name(self) -> str:
        """As `parse` reads it."""
        return f"L{self.num_layers}D{self.dim}H{self.num_heads}"

    def of(self, trunk: TrunkConfig) -> TrunkConfig:
        """The same trunk in this size."""
        return dataclasses.replace(
            trunk, num_layers=self.num_layers, dim=self.dim, num_heads=self.num_heads
        )


class ProjectedTrunk(nn.Module):
    """A trunk of a width of its own between two projections.

    Args:
        width: E, of what goes in and comes out.
        config: of the trunk.
    """

    def __init__(self, width: int, config: TrunkConfig) -> None:
        super().__init__()
        self.entry = nn.Linear(width, config.dim)
        self.trunk = SequenceTrunk(config)
        self.exit = nn.Linear(config.dim, width)

    def forward(self, x: Tensor, rows: AttentionRows, wanted: Tensor | None = None) -> Tensor:
        """[Tq, E] of tokens [T, E]; arguments as `SequenceTrunk`'s."""
        return cast(Tensor, self.exit(self.trunk(self.entry(x), rows, wanted)))


def build_of_size(settings: NextItemSettings, log: PreparedLog, size: Size, seed: int) -> nn.Module:
    """Builds a recommender of the settings' width, with a trunk of another size in it.

    Table and positions have the settings' width, whatever the size, and for one seed the same
    initial numbers.

    Raises:
        ValueError: a log without a target.
    """
    model = build_recommender(settings, log, seed)
    trunk = hstu_config(settings, log.schema).trunk
    torch.manual_seed(seed)
    model.get_submodule("body").trunk = ProjectedTrunk(trunk.dim, size.of(trunk))
    return model


def num_non_embedding(model: nn.Module) -> int:
    """Weights that multiply tokens: those of trunk and projections, less what is looked up.

    The item table, the vectors of positions and the tables of relative positions do not count.
    """
    trunk = model.get_submodule("body.trunk")
    biases = [module for module in trunk.modules() if isinstance(module, RelativeBias)]
    looked_up = sum(p.numel() for bias in biases for p in bias.parameters())
    return sum(p.numel() for p in trunk.parameters()) - looked_up


def num_dense(model: nn.Module) -> int:
    """All parameters but the item table."""
    return sum(p.numel() for p in model.get_submodule("body").parameters())
