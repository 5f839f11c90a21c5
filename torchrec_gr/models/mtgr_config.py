"""What an MTGR is made of."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

from torchrec_gr.schema.feature_schema import nearest_valid

TokenKind = Literal["user", "static", "real_time", "candidate"]
TOKEN_KINDS: tuple[TokenKind, ...] = get_args(TokenKind)
"""The kinds of tokens, in the order in which they stand in a row."""

Mask = Literal["dynamic", "causal"]
Flow = Literal["mtgr", "dfgr"]
Size = Literal["small", "medium", "large"]

_SIZES: dict[Size, dict[str, int]] = {
    "small": {"num_layers": 3, "dim": 512, "num_heads": 2},
    "medium": {"num_layers": 5, "dim": 768, "num_heads": 3},
    "large": {"num_layers": 15, "dim": 768, "num_heads": 3},
}


@dataclasses.dataclass(frozen=True)
class MTGRConfig:
    """The sizes and forms of an MTGR; the width of its tables is theirs.

    Args:
        dim: D, width of the model.
        num_layers, num_heads: of the trunk.
        norm_groups: the kinds of tokens that share a norm's scale and shift. One group of all four
            is an ordinary layer norm.
        mask: "dynamic", by the times of events and exposures; or "causal", close to HSTU's mask of
            ranking targets: the history is causal, and all candidates see it as it was known at the
            row's first exposure; the user's tokens see each other.
        flow: "mtgr"; or "dfgr", where candidates go through the events' own MLP, as events whose
            outcome is not known, and the whole history is causal.
        position_bias: adds a learned bias for each distance in the row, where a candidate stands
            right behind the events that it sees. The paper has none.
        max_seq_len: tokens of the longest row.
        task_hidden: width of each task's tower.
        micro_batches: pieces in which a batch goes through the trunk in training. Gradients are
            those of the whole batch, memory that of a piece.
        init_std: of the normal initial rows of the tables.

    Raises:
        ValueError: a word that is not known, a kind of token in no group or in two, or a number
            below 1.

    Source: MTGR, 2505.18654, its table of sizes; flow "dfgr": DFGR, 2505.16752.
    """

    dim: int = 128
    num_layers: int = 3
    num_heads: int = 2
    norm_groups: tuple[tuple[TokenKind, ...], ...] = tuple((kind,) for kind in TOKEN_KINDS)
    mask: Mask = "dynamic"
    flow: Flow = "mtgr"
    position_bias: bool = False
    max_seq_len: int = 1024
    task_hidden: int = 64
    micro_batches: int = 1
    init_std: float = 0.01

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_heads", "max_seq_len", "task_hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.micro_batches < 1:
            raise ValueError(f"micro_batches: expected at least 1, got {self.micro_batches}")
        for name, valid in (("mask", Mask), ("flow", Flow)):
            if getattr(self, name) not in get_args(valid):
                raise ValueError(nearest_valid(name, getattr(self, name), get_args(valid)))
        if self.flow == "dfgr" and self.mask != "dynamic":
            raise ValueError("flow 'dfgr' has a mask of its own: leave mask at 'dynamic'")
        grouped = [kind for group in self.norm_groups for kind in group]
        if sorted(grouped) != sorted(TOKEN_KINDS):
            raise ValueError(
                f"norm_groups: expected each of {', '.join(TOKEN_KINDS)} in one group, got "
                f"{self.norm_groups}"
            )

    @classmethod
    def preset(cls, size: Size, **changes: Any) -> MTGRConfig:
        """One of the paper's sizes.

        Args:
            size: "small" (3 layers of width 512), "medium" (5 of 768) or "large" (15 of 768).
            changes: fields that differ.

        Raises:
            ValueError: a size that is not known.
        """
        if size not in _SIZES:
            raise ValueError(nearest_valid("size", size, _SIZES))
        return cls(**{**_SIZES[size], **changes})

    @property
    def group_of_kind(self) -> tuple[int, ...]:
        """The norm's group of each kind of token, in the order of TOKEN_KINDS."""
        return tuple(
            next(i for i, group in enumerate(self.norm_groups) if kind in group)
            for kind in TOKEN_KINDS
        )
