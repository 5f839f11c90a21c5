"""The sizes of a PinFM module, and how it meets candidates.

Source: PinFM, 2507.12704.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

Trunk = Literal["gpt2", "hstu"]
FusionKind = Literal["early", "mean", "last"]


@dataclasses.dataclass(frozen=True)
class PinFMConfig:
    """The sizes of a PinFM module.

    Args:
        dim: D, width of the model and of its tables.
        num_layers, num_heads: of the decoder.
        trunk: its layers: "gpt2" (pre-norm transformer) or "hstu".
        max_positions: tokens of the longest history, in pretraining and ranking.
        num_hashes: sub-tables of the item's multi-hash table; 0: a stock table.
        hash_rows: rows of each sub-table.
        temperature: of the contrastive losses, where it begins; it is learned.
        init_std: of the normal initial tables, positions and learned tokens.

    Raises:
        ValueError: a size below its least, or a trunk that does not exist.
    """

    dim: int = 64
    num_layers: int = 4
    num_heads: int = 4
    trunk: Trunk = "gpt2"
    max_positions: int = 512
    num_hashes: int = 0
    hash_rows: int = 0
    temperature: float = 0.05
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_heads", "max_positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.trunk not in ("gpt2", "hstu"):
            raise ValueError(f"trunk: expected 'gpt2' or 'hstu', got {self.trunk!r}")
        if (self.num_hashes > 0) != (self.hash_rows > 0):
            raise ValueError(
                "num_hashes and hash_rows go together: both 0 for a stock table, both above 0 for "
                f"a multi-hash one; got {self.num_hashes} and {self.hash_rows}"
            )


@dataclasses.dataclass(frozen=True)
class PinFMFusion:
    """How candidates meet the history.

    Args:
        kind: "early": each stands behind the history and attends to it. "mean", "last": late
            fusion, the mean of the history's hidden states, or the last, for all candidates alike.
        learnable_token: a learned token stands between the history and the candidates.
        content_dim: width of a content embedding that is projected and summed into the
            candidate's token; 0: none.

    Raises:
        ValueError: a kind that does not exist, or late fusion with what candidates' tokens have.

    Source: PinFM, section on fine-tuning: base, GraphSAGE, GraphSAGE-LT, lite-mean, lite-last.
    """

    kind: FusionKind = "early"
    learnable_token: bool = False
    content_dim: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("early", "mean", "last"):
            raise ValueError(f"fusion: expected 'early', 'mean' or 'last', got {self.kind!r}")
        if self.kind != "early" and (self.learnable_token or self.content_dim):
            raise ValueError(
                f"late fusion {self.kind!r} gives candidates no token, so neither a learnable "
                "token before it nor content in it: use 'early'"
            )


EARLY_FUSION = PinFMFusion()
