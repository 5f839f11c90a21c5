"""What an HSTU recommender of the next item is made of."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torchrec_gr.modules.sequence_trunk import TrunkConfig
from torchrec_gr.schema.feature_schema import nearest_valid

PublishedModel = Literal["sasrec", "hstu", "hstu-large"]
PublishedData = Literal["ml-1m", "ml-20m", "books"]

_PADDING = 11
"""The published rows are padded to so many places more than the history has."""


@dataclasses.dataclass(frozen=True)
class HSTUConfig:
    """The sizes and the loss of a next-item recommender; its item table has the trunk's width.

    Args:
        trunk: the layers.
        max_history: events that the model reads, at most.
        num_negatives: drawn for each position out of the batch's negatives; None: all of the
            batch's, shared by all positions.
        temperature: of the loss.
        input_dropout: of the tokens.
        init_std: of the normal initial item table.

    Raises:
        ValueError: a history that is too short or longer than a row of the trunk holds.
    """

    trunk: TrunkConfig = dataclasses.field(default_factory=TrunkConfig)
    max_history: int = 200
    num_negatives: int | None = 128
    temperature: float = 0.05
    input_dropout: float = 0.0
    init_std: float = 0.02

    def __post_init__(self) -> None:
        if self.max_history < 1:
            raise ValueError(f"max_history: expected at least 1, got {self.max_history}")
        if self.max_history >= self.trunk.max_seq_len:
            raise ValueError(
                f"a row holds max_history {self.max_history} events and the one to predict: more "
                f"than trunk.max_seq_len {self.trunk.max_seq_len}"
            )

    @classmethod
    def published(cls, model: PublishedModel, data: PublishedData = "ml-1m") -> HSTUConfig:
        """A configuration of the paper's public table.

        Args:
            model: "sasrec", "hstu" or "hstu-large".
            data: the data set that it was made for.

        Raises:
            ValueError: a name that is not known.

        Source: HSTU, 2402.17152, released configurations.
        """
        if data not in _PUBLISHED:
            raise ValueError(nearest_valid("published data set", data, _PUBLISHED))
        common, models = _PUBLISHED[data]
        if model not in models:
            raise ValueError(nearest_valid("published model", model, models))
        num_layers, num_heads = models[model]
        is_softmax = model == "sasrec"
        trunk = TrunkConfig(
            block="sasrec" if is_softmax else "hstu_research",
            dim=common.dim,
            num_layers=num_layers,
            num_heads=num_heads,
            feed_forward_dim=common.dim if is_softmax else None,
            dropout=common.dropout,
            bias="none" if is_softmax else "position_time",
            max_seq_len=common.max_history + _PADDING,
        )
        return cls(
            trunk=trunk,
            max_history=common.max_history,
            num_negatives=common.num_negatives,
            input_dropout=common.dropout,
        )


@dataclasses.dataclass(frozen=True)
class _Common:
    """What all models of a data set share in the public table."""

    dim: int
    max_history: int
    num_negatives: int
    dropout: float


_LAYERS_HEADS = dict[PublishedModel, tuple[int, int]]
_PUBLISHED: dict[PublishedData, tuple[_Common, _LAYERS_HEADS]] = {
    "ml-1m": (
        _Common(50, 200, 128, 0.2),
        {"sasrec": (2, 1), "hstu": (2, 1), "hstu-large": (8, 2)},
    ),
    "ml-20m": (
        _Common(256, 200, 128, 0.2),
        {"sasrec": (4, 4), "hstu": (4, 4), "hstu-large": (16, 8)},
    ),
    "books": (
        _Common(64, 50, 512, 0.5),
        {"sasrec": (4, 4), "hstu": (4, 4), "hstu-large": (16, 8)},
    ),
}
