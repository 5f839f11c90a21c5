"""Builders of spans against dense masks written from their definitions."""

from __future__ import annotations

import itertools

import pytest
import torch

from torchrec_gr.ops.attention_spans import KeySpans, visible_keys
from torchrec_gr.sequences.visibility import causal, ranking_targets


def _rows(spans: KeySpans, offsets: torch.Tensor) -> list[list[list[bool]]]:
    own = spans.own_or_trailing(offsets, offsets)
    return [
        visible_keys(spans.start[a:b], spans.end[a:b], own[a:b], b - a).tolist()
        for a, b in itertools.pairwise(offsets.tolist())
    ]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("lengths", [[3], [0, 1, 63, 0], [0, 0]])
def test_causal(lengths: list[int], dtype: torch.dtype) -> None:
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=dtype)
    expected = [[[j <= i for j in range(n)] for i in range(n)] for n in lengths]
    spans = causal(offsets)
    assert spans.end.dtype == torch.int32
    assert _rows(spans, offsets) == expected


def _target_mask(num_history: int, num_candidates: int) -> list[list[bool]]:
    def sees(i: int, j: int) -> bool:
        if j >= num_history:
            return i == j
        return i >= num_history or j <= i

    total = num_history + num_candidates
    return [[sees(i, j) for j in range(total)] for i in range(total)]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_ranking_targets(dtype: torch.dtype) -> None:
    num_history, num_candidates = (
        torch.tensor([3, 0, 63, 5, 0, 1]),
        torch.tensor([2, 4, 1, 0, 0, 1]),
    )
    offsets = torch.cat([torch.zeros(1), (num_history + num_candidates).cumsum(0)]).to(dtype)
    spans = ranking_targets(offsets, num_history)
    assert spans.end.dtype == torch.int32
    assert _rows(spans, offsets) == [
        _target_mask(h, c)
        for h, c in zip(num_history.tolist(), num_candidates.tolist(), strict=True)
    ]


def test_one_candidate_a_row_is_causal() -> None:
    offsets = torch.tensor([0, 1, 5, 12])
    targets = ranking_targets(offsets, offsets.diff() - 1)
    assert _rows(targets, offsets) == _rows(causal(offsets), offsets)
