"""Masks of whole rows, token by token: from a definition in words, and from spans."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from torchrec_gr.ops.attention_spans import KeySpans, visible_keys

Mask = list[list[bool]]


class Token(NamedTuple):
    """A token of a row: what it is, which of its kind, and when."""

    kind: str
    index: int
    time: int = 0


def tokens(kind: str, count: int) -> list[Token]:
    return [Token(kind, index) for index in range(count)]


def mask_of(
    sees: Callable[[Token, Token], bool], queries: list[Token], keys: list[Token] | None = None
) -> Mask:
    """The mask of a row by its definition. A token sees itself, whatever `sees` says."""
    keys = queries if keys is None else keys
    return [[query == key or sees(query, key) for key in keys] for query in queries]


def masks_of(spans: KeySpans, q_offsets: Tensor, k_offsets: Tensor | None = None) -> list[Mask]:
    """The mask of every row by its spans."""
    k_offsets = q_offsets if k_offsets is None else k_offsets
    own = spans.own_or_trailing(q_offsets, k_offsets)
    assert all(x is None or x.dtype == torch.int32 for x in (spans.start, spans.end, spans.own))
    return [
        visible_keys(spans.start[a:b], spans.end[a:b], own[a:b], num_keys).tolist()
        for (a, b), num_keys in zip(
            itertools.pairwise(q_offsets.tolist()), k_offsets.diff().tolist(), strict=True
        )
    ]


def assert_same(masks: list[Mask], expected: list[Mask]) -> None:
    for row, (mask, wanted) in enumerate(zip(masks, expected, strict=True)):
        assert mask == wanted, f"row {row}"


def offsets_of(lengths: list[int], dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=dtype)
