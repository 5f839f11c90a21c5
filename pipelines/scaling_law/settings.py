"""The settings of the scaling study, with their defaults."""

from __future__ import annotations

import dataclasses

from pipelines.recommending.settings import NextItemSettings
from torchrec_gr.models.hstu_config import HSTUConfig
from torchrec_gr.modules.sequence_trunk import TrunkConfig
from torchrec_gr.training.optimizer import TableOptimizer

_TRUNK = TrunkConfig(
    block="hstu_research", dim=64, num_layers=1, dropout=0.1, bias="position", max_seq_len=61
)
_TRAINING = NextItemSettings(
    sizes=HSTUConfig(trunk=_TRUNK, max_history=50, num_negatives=None, input_dropout=0.1),
    held_out="validation",
    epochs=12,
    evaluate_every=3,
    batch_size=32,
    pool=1024,
    tables=TableOptimizer("adamw", lr=1e-3),
)


@dataclasses.dataclass(frozen=True)
class ScalingSettings:
    """Everything that the scaling study can be told.

    Args:
        sizes: of trunks, as in L4D48H2: layers, width, heads.
        seed: of all sizes.
        training: of all sizes. Its `sizes.trunk` is what they share; its width is that of the item
            table and of the vectors of positions.
    """

    sizes: tuple[str, ...] = ("L2D12", "L2D24", "L2D48", "L4D64H2", "L4D128H4")
    seed: int = 0
    training: NextItemSettings = _TRAINING
