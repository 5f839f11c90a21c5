"""What a layer adds to its attention scores for distance in place and in time."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.ops.attention_bias import AttentionBias

BiasKind = Literal["none", "position", "position_time", "alibi"]

NUM_TIME_BUCKETS = 128
INIT_STD = 0.02


class RelativeBias(nn.Module):
    """The bias of one layer: learned tables over position and time, or ALiBi's fixed slopes.

    Args:
        kind: "position" has a learned entry a distance, "position_time" one a bucket of elapsed
            time beside it, both shared by the layer's heads; "alibi" a fixed slope a head; "none"
            has nothing.
        num_heads: H.
        max_seq_len: longest row, which sizes the position table.

    Source: HSTU, 2402.17152, section 3.2 and its research code (tables, their first values);
        ALiBi: Press et al., 2108.12409, section 3, as GenRank, 2505.04180, uses it.
    """

    def __init__(self, kind: BiasKind, num_heads: int, max_seq_len: int) -> None:
        super().__init__()
        self.kind = kind
        self.position_table: nn.Parameter | None = None
        self.time_table: nn.Parameter | None = None
        if kind in ("position", "position_time"):
            self.position_table = _table(2 * max_seq_len - 1)
        if kind == "position_time":
            self.time_table = _table(NUM_TIME_BUCKETS + 1)
        slopes = torch.tensor(alibi_slopes(num_heads)) if kind == "alibi" else None
        self.register_buffer("slopes", slopes, persistent=False)

    def forward(self, rows: AttentionRows) -> AttentionBias | None:
        """The bias over the tokens of these rows.

        Raises:
            ValueError: the layer has a time table and the rows no times.
        """
        if self.kind == "none":
            return None
        q_times = None
        if self.time_table is not None:
            if rows.times is None:
                raise ValueError(
                    "a bias over time needs the times of all events, and these rows have none: "
                    "configure bias 'position' for a log that knows only an order"
                )
            asking = rows.times if rows.query_times is None else rows.query_times
            q_times = rows.asked_for(asking)
        slopes = self.slopes
        assert slopes is None or isinstance(slopes, Tensor)
        return AttentionBias(
            slopes=slopes,
            position_table=self.position_table,
            time_table=self.time_table,
            q_positions=None if rows.positions is None else rows.asked_for(rows.positions),
            k_positions=rows.positions,
            q_times=q_times,
            k_times=None if self.time_table is None else rows.times,
        )


def alibi_slopes(num_heads: int) -> list[float]:
    """One slope a head: a geometric sequence from 2 ** (-8 / H); between powers of two, mixed.

    Source: Press et al., 2108.12409, section 3 and its released code.
    """
    whole = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (i + 1) / whole) for i in range(whole)]
    slopes += [2 ** (-4 * (2 * i + 1) / whole) for i in range(num_heads - whole)]
    return slopes


def _table(num_entries: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(1, num_entries).normal_(std=INIT_STD))
