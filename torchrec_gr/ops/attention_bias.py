"""What is added to an attention score for the distance in place and in time."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import embedding

from torchrec_gr.ops.attention_spans import KeySpans

LOG_BUCKET_WIDTH = 0.301
"""A time bucket is this wide in ln(seconds), or whatever the unit: about log10(2)."""


@dataclasses.dataclass(frozen=True)
class AttentionBias:
    """Terms added to the score of query and key; those left out are 0.

    Slopes and tables are of any float dtype, the ops reckon with them in float32; they have
    gradients.

    Positions default to the place in the row: a key's own, a query's that of its own key. `q_times`
    defaults to the time of the query's own key; HSTU's research form passes the next event's time.
    A query without a key of its own has neither default.

    Args:
        slopes: [H], ALiBi: -slope * |p_q - p_k|.
        position_table: [H or 1, 2 * max_seq_len - 1]: the entry p_k - p_q + max_seq_len - 1.
        time_table: [H or 1, buckets]: the entry `time_buckets(t_q, t_k, buckets)`.
        q_positions, k_positions: [Tq], [Tk] int32 or int64; in [0, max_seq_len) with a position
            table, else in [-2**30, 2**30).
        q_times, k_times: [Tq], [Tk] int32 or int64.

    Source: ALiBi: Press et al., 2108.12409, section 3; tables: HSTU, 2402.17152, section 3.2 (the
        relative attention bias), where w_pos[j - i] has query i and key j.
    """

    slopes: Tensor | None = None
    position_table: Tensor | None = None
    time_table: Tensor | None = None
    q_positions: Tensor | None = None
    k_positions: Tensor | None = None
    q_times: Tensor | None = None
    k_times: Tensor | None = None

    @property
    def uses_positions(self) -> bool:
        """Whether a term reads positions."""
        return self.slopes is not None or self.position_table is not None

    def with_defaults(self, q_offsets: Tensor, k_offsets: Tensor, spans: KeySpans) -> AttentionBias:
        """The same bias with every position and time that its terms read filled in."""
        own = spans.own_or_trailing(q_offsets, k_offsets).long()
        filled = self
        if self.uses_positions and self.q_positions is None:
            filled = dataclasses.replace(filled, q_positions=own)
        if self.uses_positions and self.k_positions is None:
            num_keys = k_offsets.diff()
            first = k_offsets[:-1].repeat_interleave(num_keys)
            places = torch.arange(first.numel(), device=first.device) - first
            filled = dataclasses.replace(filled, k_positions=places)
        if self.time_table is not None and self.q_times is None:
            assert self.k_times is not None
            first = k_offsets[:-1].repeat_interleave(q_offsets.diff())
            filled = dataclasses.replace(filled, q_times=self.k_times[first + own])
        return filled

    def scores(self) -> Tensor:
        """Writes the bias out as matrices, for queries and keys that stand in the same rows.

        The positions and times that the terms read must be given: [..., Q] of queries and [..., K]
        of keys, with the same leading axes.

        Returns:
            [..., H or 1, Q, K].
        """
        terms = []
        if self.uses_positions:
            assert self.q_positions is not None
            assert self.k_positions is not None
            distance = self.k_positions.unsqueeze(-2) - self.q_positions.unsqueeze(-1)
            if self.slopes is not None:
                terms.append(-self.slopes[:, None, None] * distance.abs().unsqueeze(-3))
            if self.position_table is not None:
                middle = self.position_table.shape[1] // 2
                terms.append(_entries(self.position_table, distance + middle))
        if self.time_table is not None:
            assert self.q_times is not None
            assert self.k_times is not None
            buckets = time_buckets(
                self.q_times.unsqueeze(-1), self.k_times.unsqueeze(-2), self.time_table.shape[1]
            )
            terms.append(_entries(self.time_table, buckets))
        return sum(terms[1:], start=terms[0])


def bias_arguments(bias: AttentionBias | None) -> tuple[Tensor | None, ...]:
    """The compiled ops' arguments: the bias's fields in order, absent where there is no bias.

    Raises:
        ValueError: a bias without a term.
    """
    if bias is None:
        return (None,) * 7
    if not bias.uses_positions and bias.time_table is None:
        raise ValueError("bias: expected slopes or a table, got neither: leave the bias out")
    return (
        bias.slopes,
        bias.position_table,
        bias.time_table,
        bias.q_positions,
        bias.k_positions,
        bias.q_times,
        bias.k_times,
    )


def time_buckets(q_times: Tensor, k_times: Tensor, num_buckets: int) -> Tensor:
    """The bucket of a time difference: floor(ln(max(|t_q - t_k|, 1)) / 0.301), at most the last.

    Times below 2**53 are taken exactly. An unknown time (INT64_MIN) is far from every known one.

    Args:
        q_times, k_times: int64 of shapes that broadcast.
        num_buckets: of the table.

    Returns:
        int64 in [0, num_buckets), of the broadcast shape.

    Source: HSTU, 2402.17152, the published research configuration.
    """
    elapsed = (q_times.double() - k_times.double()).abs().clamp(min=1.0)
    return (elapsed.log() / LOG_BUCKET_WIDTH).long().clamp(max=num_buckets - 1)


def _entries(table: Tensor, index: Tensor) -> Tensor:
    return embedding(index, table.t()).movedim(-1, -3)
