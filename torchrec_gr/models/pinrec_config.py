"""What a PinRec recommender is made of."""

from __future__ import annotations

import dataclasses

from torchrec_gr.modules.sequence_trunk import TrunkConfig


@dataclasses.dataclass(frozen=True)
class PinRecConfig:
    """The sizes and the loss of PinRec; its tables have the trunk's width.

    Args:
        action: the history feature that says what the user did with the item.
        desired: the row of the action's table that retrieval is conditioned on.
        trunk: the layers.
        max_history: events that the model reads, at most.
        window: events ahead of a position, any one of which it may predict.
        temperature: of the loss.
        input_dropout: of the tokens.
        init_std: of the normal initial tables.

    Raises:
        ValueError: a number out of its range, or a history longer than a row of the trunk holds.
    """

    action: str
    desired: int
    trunk: TrunkConfig = dataclasses.field(default_factory=lambda: TrunkConfig(max_seq_len=201))
    max_history: int = 200
    window: int = 1
    temperature: float = 0.05
    input_dropout: float = 0.0
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for name in ("max_history", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise ValueError(f"temperature: expected above 0, got {self.temperature}")
        if self.max_history >= self.trunk.max_seq_len:
            raise ValueError(
                f"a row holds max_history {self.max_history} events and the one to predict: more "
                f"than trunk.max_seq_len {self.trunk.max_seq_len}"
            )
