"""The keywords of `ranking_targets`: HSTU's production mask, in all combinations of small sizes."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.sequences.dense_masks import (
    Mask,
    Token,
    assert_same,
    mask_of,
    masks_of,
    offsets_of,
    tokens,
)
from torchrec_gr.sequences.visibility import ranking_targets

# Every row at once: up to 6 history tokens, up to 2 candidates.
HISTORY, CANDIDATES = zip(*itertools.product(range(7), range(3)), strict=True)


def _mask(
    num_contextual: int, num_history: int, num_candidates: int, window: int | None, num_full: int
) -> Mask:
    """The mask of one row, by the rules.

    Nobody sees a candidate. A contextual token sees everything else. The others see what comes
    before them, at most `window` steps back: contextual tokens are together at step 0, events at
    steps 1, 2, ... and all candidates at the step after the last event. The window does not bind
    the last `num_full` events, nor, where there are any such, the candidates.
    """

    def step(token: Token) -> int:
        steps = {"contextual": 0, "history": token.index + 1, "candidate": num_history + 1}
        return steps[token.kind]

    def is_bound(token: Token) -> bool:
        if window is None:
            return False
        if token.kind == "candidate":
            return num_full == 0
        return token.index < num_history - num_full

    def sees(query: Token, key: Token) -> bool:
        if key.kind == "candidate":
            return False
        if query.kind == "contextual":
            return True
        steps_back = step(query) - step(key)
        return steps_back > 0 and not (is_bound(query) and steps_back > window)

    return mask_of(
        sees,
        tokens("contextual", num_contextual)
        + tokens("history", num_history)
        + tokens("candidate", num_candidates),
    )


@pytest.mark.parametrize("num_contextual", range(4))
def test_all_combinations(num_contextual: int) -> None:
    lengths = [num_contextual + h + c for h, c in zip(HISTORY, CANDIDATES, strict=True)]
    offsets, num_history = offsets_of(lengths), torch.tensor(HISTORY)
    for window, num_full in itertools.product([None, *range(1, 7)], range(7)):
        spans = ranking_targets(
            offsets, num_history, num_contextual=num_contextual, window=window, num_full=num_full
        )
        expected = [
            _mask(num_contextual, h, c, window, num_full)
            for h, c in zip(HISTORY, CANDIDATES, strict=True)
        ]
        assert_same(masks_of(spans, offsets), expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("window", [None, 2])
def test_every_row_with_its_own_contextual_tokens(window: int | None, dtype: torch.dtype) -> None:
    contextual, history, candidates = zip(
        *itertools.product(range(4), range(5), range(3)), strict=True
    )
    offsets = offsets_of([sum(row) for row in zip(contextual, history, candidates, strict=True)])
    spans = ranking_targets(
        offsets.to(dtype),
        torch.tensor(history, dtype=dtype),
        num_contextual=torch.tensor(contextual, dtype=dtype),
        window=window,
        num_full=1,
    )
    expected = [
        _mask(g, h, c, window, 1) for g, h, c in zip(contextual, history, candidates, strict=True)
    ]
    assert_same(masks_of(spans, offsets), expected)
