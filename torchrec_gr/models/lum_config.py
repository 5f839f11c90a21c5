"""What a LUM is made of."""

from __future__ import annotations

import dataclasses

from torchrec_gr.modules.sequence_trunk import TrunkConfig


@dataclasses.dataclass(frozen=True)
class LUMConfig:
    """The sizes and the loss of a LUM; its tables have the trunk's width.

    Args:
        conditions: history features whose embeddings, summed, are an event's condition token.
        trunk: the layers; a row holds two tokens an event, and a query.
        temperature: of the loss.
        input_dropout: of the tokens.
        init_std: of the normal initial tables.

    Raises:
        ValueError: no condition, one that is named twice, or a trunk with a bias over time.
    """

    conditions: tuple[str, ...]
    trunk: TrunkConfig = dataclasses.field(default_factory=TrunkConfig)
    temperature: float = 0.05
    input_dropout: float = 0.0
    init_std: float = 0.02

    def __post_init__(self) -> None:
        if not self.conditions or len(set(self.conditions)) < len(self.conditions):
            raise ValueError(
                "conditions: expected at least one history feature, each named once, got "
                f"{list(self.conditions)}"
            )
        if self.trunk.bias == "position_time":
            raise ValueError(
                "trunk.bias: a query is asked offline, so LUM's tokens have places and no times: "
                "expected none, position or alibi, got 'position_time'"
            )
