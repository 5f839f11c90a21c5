"""Builders of spans against dense masks written from their definitions."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.sequences.dense_masks import Token, assert_same, mask_of, masks_of, offsets_of, tokens
from torchrec_gr.ops.attention_spans import KeySpans
from torchrec_gr.sequences.visibility import (
    cached_history,
    causal,
    dfgr,
    longer,
    mtgr,
    ranking_targets,
    set_wise,
)

dtypes = pytest.mark.parametrize("dtype", [torch.int32, torch.int64])


def _draw(*largest: int, num_rows: int = 1000) -> list[list[int]]:
    """Counts of `num_rows` rows, from 0 to the largest of each kind: [kinds][rows]."""
    rng = random.Random(0)
    return [[rng.randint(0, n) for _ in range(num_rows)] for n in largest]


def _sum(*counts: list[int]) -> list[int]:
    return [sum(row) for row in zip(*counts, strict=True)]


def _earlier(query: Token, key: Token) -> bool:
    return key.index < query.index


@dtypes
def test_causal(dtype: torch.dtype) -> None:
    (lengths,) = _draw(12)
    offsets = offsets_of(lengths, dtype)
    expected = [mask_of(_earlier, tokens("history", n)) for n in lengths]
    assert_same(masks_of(causal(offsets), offsets), expected)


def _target_sees(query: Token, key: Token) -> bool:
    if key.kind == "candidate":
        return False
    return query.kind == "candidate" or _earlier(query, key)


@dtypes
def test_ranking_targets(dtype: torch.dtype) -> None:
    history, candidates = _draw(6, 6)
    offsets = offsets_of(_sum(history, candidates), dtype)
    expected = [
        mask_of(_target_sees, tokens("history", h) + tokens("candidate", c))
        for h, c in zip(history, candidates, strict=True)
    ]
    spans = ranking_targets(offsets, torch.tensor(history, dtype=dtype))
    assert_same(masks_of(spans, offsets), expected)


def test_one_candidate_a_row_is_causal() -> None:
    offsets = torch.tensor([0, 1, 5, 12])
    targets = ranking_targets(offsets, offsets.diff() - 1)
    assert_same(masks_of(targets, offsets), masks_of(causal(offsets), offsets))


@dtypes
def test_cached_history(dtype: torch.dtype) -> None:
    history, candidates = _draw(6, 6)
    q_offsets = offsets_of(candidates, dtype)
    k_offsets = offsets_of(_sum(history, candidates), dtype)
    expected = [
        mask_of(_target_sees, tokens("candidate", c), tokens("history", h) + tokens("candidate", c))
        for h, c in zip(history, candidates, strict=True)
    ]
    assert_same(masks_of(cached_history(q_offsets, k_offsets), q_offsets, k_offsets), expected)


def _longer_sees(query: Token, key: Token) -> bool:
    if query.kind == "sequence":
        return key.kind == "sequence" and _earlier(query, key)
    return key.kind != "candidate"


@dtypes
def test_longer(dtype: torch.dtype) -> None:
    num_globals, skipped, recent, candidates = _draw(4, 4, 4, 3)
    q_offsets = offsets_of(_sum(num_globals, recent, candidates), dtype)
    k_offsets = offsets_of(_sum(num_globals, skipped, recent, candidates), dtype)
    expected, own = [], []
    for g, s, r, c in zip(num_globals, skipped, recent, candidates, strict=True):
        keys = tokens("global", g) + tokens("sequence", s + r) + tokens("candidate", c)
        queries = keys[:g] + keys[g + s :]
        expected.append(mask_of(_longer_sees, queries, keys))
        own += [keys.index(query) for query in queries]
    counts = (torch.tensor(num, dtype=dtype) for num in (num_globals, candidates))
    spans = longer(q_offsets, k_offsets, *counts)
    assert_same(masks_of(spans, q_offsets, k_offsets), expected)
    assert spans.own is not None
    assert spans.own.tolist() == own


def test_longer_with_as_many_globals_in_every_row() -> None:
    q_offsets, k_offsets = torch.tensor([0, 3, 5]), torch.tensor([0, 7, 9])
    one_number = longer(q_offsets, k_offsets, 1, 1)
    of_rows = longer(q_offsets, k_offsets, torch.tensor([1, 1]), torch.tensor([1, 1]))
    assert_same(masks_of(one_number, q_offsets, k_offsets), masks_of(of_rows, q_offsets, k_offsets))


def _dfgr_sees(query: Token, key: Token) -> bool:
    return key.kind == "real" and _earlier(query, key)


@dtypes
def test_dfgr(dtype: torch.dtype) -> None:
    (events,) = _draw(6)
    offsets = offsets_of(_sum(events, events), dtype)
    expected = [mask_of(_dfgr_sees, tokens("real", n) + tokens("fake", n)) for n in events]
    assert_same(masks_of(dfgr(offsets), offsets), expected)


@dtypes
def test_set_wise(dtype: torch.dtype) -> None:
    (candidates,) = _draw(12)
    offsets = offsets_of(candidates, dtype)
    expected = [mask_of(lambda query, key: True, tokens("candidate", n)) for n in candidates]
    assert_same(masks_of(set_wise(offsets), offsets), expected)


@pytest.mark.parametrize("num_rows", [0, 2])
def test_nothing_but_empty_rows(num_rows: int) -> None:
    offsets = torch.zeros(num_rows + 1, dtype=torch.int64)
    counts, times = offsets[1:], offsets[:0]
    for spans in (
        causal(offsets),
        ranking_targets(offsets, counts, num_contextual=counts, window=1, num_full=1),
        mtgr(offsets, counts, counts, times),
        cached_history(offsets, offsets),
        longer(offsets, offsets, counts),
        dfgr(offsets),
        set_wise(offsets),
    ):
        assert masks_of(spans, offsets) == [[]] * num_rows


OFFSETS = torch.tensor([0, 4, 4, 10])
SHORTER = torch.tensor([0, 2, 2, 5])
COUNTS = torch.tensor([2, 0, 3])
TIMES = torch.tensor([0, 0, 5, 6, 0, 0, 0, 1, 2, 2])

TRACED: dict[str, tuple[Callable[..., KeySpans], tuple[Tensor, ...]]] = {
    "causal": (causal, (OFFSETS,)),
    "ranking_targets": (ranking_targets, (OFFSETS, COUNTS)),
    "ranking_targets with a window": (
        lambda offsets, counts: ranking_targets(
            offsets, counts, num_contextual=counts, window=2, num_full=1
        ),
        (OFFSETS, COUNTS),
    ),
    "mtgr": (mtgr, (OFFSETS, COUNTS, COUNTS, TIMES)),
    "cached_history": (cached_history, (SHORTER, OFFSETS)),
    "longer": (longer, (SHORTER, OFFSETS, SHORTER.diff() // 2, SHORTER.diff() // 2)),
    "dfgr": (dfgr, (OFFSETS,)),
    "set_wise": (set_wise, (OFFSETS,)),
}


@pytest.mark.parametrize("name", TRACED)
def test_builders_are_traced_whole(name: str) -> None:
    build, args = TRACED[name]
    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        traced = torch.compile(build, fullgraph=True, backend="aot_eager")(*args)
    spans = build(*args)
    assert torch.equal(traced.start, spans.start)
    assert torch.equal(traced.end, spans.end)


ROWS = offsets_of([4, 5])
REFUSED: list[tuple[str, Callable[[], KeySpans]]] = [
    ("offsets: expected to begin at 0, got 1", lambda: causal(torch.tensor([1, 3]))),
    ("offsets: expected rows of 0 .* got -1 at index 1", lambda: causal(torch.tensor([0, 3, 2]))),
    (r"offsets: expected \[B \+ 1\] int", lambda: causal(torch.tensor([0.0, 3.0]))),
    (r"offsets: expected \[B \+ 1\] int", lambda: set_wise(torch.tensor(3))),
    ("offsets: .* two flows .* got 5 at index 1", lambda: dfgr(ROWS)),
    ("num_history: .* got 5 at index 0", lambda: ranking_targets(ROWS, torch.tensor([5, 5]))),
    ("num_history: .* got -1 at index 1", lambda: ranking_targets(ROWS, torch.tensor([4, -1]))),
    ("num_history: expected one a row", lambda: ranking_targets(ROWS, torch.tensor([4]))),
    ("num_history: expected one a row", lambda: ranking_targets(ROWS, torch.tensor([4.0, 5.0]))),
    (
        "num_history: .* got 4 at index 0",
        lambda: ranking_targets(ROWS, torch.tensor([4, 4]), num_contextual=1),
    ),
    (
        "num_contextual: .* got -1 at index 0",
        lambda: ranking_targets(ROWS, torch.tensor([4, 4]), num_contextual=-1),
    ),
    ("window: .* got 0", lambda: ranking_targets(ROWS, torch.tensor([4, 4]), window=0)),
    (
        "num_full: .* got -2",
        lambda: ranking_targets(ROWS, torch.tensor([4, 4]), window=3, num_full=-2),
    ),
    ("q_offsets: expected to begin at 0", lambda: cached_history(ROWS + 1, ROWS)),
    ("k_offsets: expected to begin at 0", lambda: cached_history(ROWS, ROWS + 1)),
    ("k_offsets: .* got 3 at index 1", lambda: cached_history(ROWS, offsets_of([4, 3]))),
    ("k_offsets: .* got 3 at index 1", lambda: longer(ROWS, offsets_of([4, 3]), 0)),
    (r"k_offsets: expected \[3\]", lambda: cached_history(ROWS, offsets_of([9]))),
    ("num_globals: .* got 5 at index 0", lambda: longer(ROWS, ROWS, 5)),
    ("num_globals: .* got -1 at index 1", lambda: longer(ROWS, ROWS, torch.tensor([0, -1]))),
    ("num_candidates: .* got 3 at index 0", lambda: longer(ROWS, ROWS, 2, 3)),
]


@pytest.mark.parametrize(("message", "call"), REFUSED)
def test_what_is_wrong_is_named(message: str, call: Callable[[], KeySpans]) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
