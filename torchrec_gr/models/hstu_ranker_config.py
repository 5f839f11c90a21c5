"""What an HSTU ranker is made of."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from torchrec_gr.modules.sequence_trunk import TrunkConfig
from torchrec_gr.schema.feature_schema import nearest_valid

TokenForm = Literal["interleaved", "added"]
Encoding = Literal["position", "request_index", "time_gap"]


@dataclasses.dataclass(frozen=True)
class HSTURankerConfig:
    """The sizes and forms of an HSTU ranker; the width of its tables is theirs.

    Args:
        trunk: its layers. Its `max_seq_len` is the tokens of the longest row.
        tokens: "interleaved", an item's token and then its action's, as HSTU has them; or "added",
            both in one token, as GenRank does: a candidate's action is then a learned placeholder.
        encodings: learned vectors that are added to the tokens of events and candidates.
            "position" counts the tokens in front, for a candidate those that it sees;
            "request_index" the different times of earlier events; "time_gap" is the bucket of the
            time since the event before, for a candidate since the newest that it sees.
        set_wise: behind the trunk, the candidates of one row and one moment see each other. A
            moment must then be a request: where histories are known as of a day or a split, the
            candidates of a moment come from many requests, and the earlier see the later.
        task_hidden: width of each task's tower.
        micro_batches: pieces in which a batch is scored in training. Gradients are those of the
            whole batch, memory that of a piece.
        init_std: of the normal initial rows of the tables.

    Raises:
        ValueError: a word that is not known or comes twice, or a number below 1.

    Source: HSTU, 2402.17152; GenRank, 2505.04180: "added", all three encodings and
        `trunk.bias` "alibi"; LiGR, 2502.03417: `trunk.block` "ligr" and `set_wise`.
    """

    trunk: TrunkConfig = dataclasses.field(
        default_factory=lambda: TrunkConfig(num_layers=3, num_heads=2, max_seq_len=1024)
    )
    tokens: TokenForm = "interleaved"
    encodings: tuple[Encoding, ...] = ("position", "time_gap")
    set_wise: bool = False
    task_hidden: int = 64
    micro_batches: int = 1
    init_std: float = 0.01

    def __post_init__(self) -> None:
        for name in ("task_hidden", "micro_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.tokens not in get_args(TokenForm):
            raise ValueError(nearest_valid("tokens", self.tokens, get_args(TokenForm)))
        for encoding in self.encodings:
            if encoding not in get_args(Encoding):
                raise ValueError(nearest_valid("encoding", encoding, get_args(Encoding)))
        if len(set(self.encodings)) < len(self.encodings):
            raise ValueError(f"encodings: expected each once, got {self.encodings}")

    @property
    def tokens_per_event(self) -> int:
        """1 or 2."""
        return 2 if self.tokens == "interleaved" else 1
