"""Jagged rows as a few padded batches, so that dense PyTorch can attend to them.

Rows are sorted into length classes, powers of two apart, and each class is padded to its own
longest row: the padding less than doubles a row of eight tokens or more, whatever the longest row
of the batch is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from torchrec_gr.ops.attention_bias import AttentionBias
from torchrec_gr.ops.attention_spans import KeySpans, visible_keys

_SHORTEST_CLASS = 8


class PaddedRows:
    """Where the queries and keys of jagged rows go in padded batches, one a length class.

    The batches of a quantity lie one after the other in one buffer, so each is filled by a single
    scatter and read back by a single gather. Empty slots hold zeros.

    Args:
        q_offsets, k_offsets: [B + 1] integers, B >= 1.
    """

    def __init__(self, q_offsets: Tensor, k_offsets: Tensor) -> None:
        self._q_offsets = q_offsets.long()
        self._k_offsets = k_offsets.long()
        longer = self._q_offsets.diff().maximum(self._k_offsets.diff()).clamp(min=_SHORTEST_CLASS)
        _, self._row_class, counts = torch.unique(
            longer.double().log2().ceil(), return_inverse=True, return_counts=True
        )
        self._queries = _Slots(self._q_offsets, self._row_class, counts)
        self._keys = _Slots(self._k_offsets, self._row_class, counts)

    def pad_queries(self, x: Tensor) -> list[Tensor]:
        """[Tq, ...] to one [rows, Q, ...] a class."""
        return self._queries.pad(x)

    def pad_keys(self, x: Tensor) -> list[Tensor]:
        """[Tk, ...] to one [rows, K, ...] a class."""
        return self._keys.pad(x)

    def unpad_queries(self, padded: list[Tensor]) -> Tensor:
        """One [rows, Q, ...] a class to [Tq, ...]."""
        return self._queries.unpad(padded)

    def visible(self, spans: KeySpans) -> list[Tensor]:
        """One [rows, 1, Q, K] bool a class: may the query see the key? Padding sees none."""
        own = spans.own_or_trailing(self._q_offsets, self._k_offsets)
        num_keys = self._k_offsets.diff().repeat_interleave(
            self._q_offsets.diff(), output_size=len(own)
        )
        # Empty slots are zeros: `own` goes in with 1 added, so that there it comes out as -1, none.
        bounds = torch.stack([spans.start, spans.end.minimum(num_keys), own + 1], dim=1)
        masks = []
        for padded, longest in zip(self.pad_queries(bounds), self._keys.longest, strict=True):
            start, end, own_place = padded.unbind(-1)
            masks.append(visible_keys(start, end, own_place - 1, longest).unsqueeze(1))
        return masks

    def scores(self, bias: AttentionBias, spans: KeySpans) -> list[Tensor]:
        """One [rows, H or 1, Q, K] a class: the bias; where there is padding it means nothing."""
        bias = bias.with_defaults(self._q_offsets, self._k_offsets, spans)
        places = {
            "q_positions": _pad_or_none(self._queries, bias.q_positions),
            "k_positions": _pad_or_none(self._keys, bias.k_positions),
            "q_times": _pad_or_none(self._queries, bias.q_times),
            "k_times": _pad_or_none(self._keys, bias.k_times),
        }
        return [
            dataclasses.replace(bias, **dict(zip(places, of_class, strict=True))).scores()
            for of_class in zip(*places.values(), strict=True)
        ]


class _Slots:
    """The places of one side's tokens, queries or keys, in the classes' padded batches."""

    def __init__(self, offsets: Tensor, row_class: Tensor, counts: Tensor) -> None:
        lengths = offsets.diff()
        longest = lengths.new_ones(len(counts)).scatter_reduce(0, row_class, lengths, "amax")
        sizes = counts * longest
        rows_before = torch.empty_like(row_class)
        rows_before[row_class.argsort()] = torch.arange(len(lengths), device=lengths.device)
        place_in_class = rows_before - (counts.cumsum(0) - counts)[row_class]
        row_start = (sizes.cumsum(0) - sizes)[row_class] + place_in_class * longest[row_class]
        num_tokens = int(offsets[-1])
        self._slots = torch.arange(num_tokens, device=lengths.device) + (
            row_start - offsets[:-1]
        ).repeat_interleave(lengths, output_size=num_tokens)
        self._num_rows: list[int] = counts.tolist()
        self._sizes: list[int] = sizes.tolist()
        self.longest: list[int] = longest.tolist()

    def pad(self, x: Tensor) -> list[Tensor]:
        buffer = x.new_zeros(sum(self._sizes), *x.shape[1:])
        batches = buffer.index_copy_(0, self._slots, x).split(self._sizes)
        return [
            batch.unflatten(0, (rows, longest))
            for batch, rows, longest in zip(batches, self._num_rows, self.longest, strict=True)
        ]

    def unpad(self, padded: list[Tensor]) -> Tensor:
        return torch.cat([batch.flatten(0, 1) for batch in padded]).index_select(0, self._slots)


def _pad_or_none(slots: _Slots, x: Tensor | None) -> Sequence[Tensor | None]:
    return [None] * len(slots.longest) if x is None else slots.pad(x)
