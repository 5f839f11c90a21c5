"""Rotation by position."""

from __future__ import annotations

import math

import pytest
import torch

from torchrec_gr.modules.rotary_embedding import RotaryEmbedding, rotate


def test_every_pair_turns_by_its_own_angle() -> None:
    x = torch.randn(3, 2, 6)
    positions = torch.tensor([0, 5, 9])
    turned = rotate(x, RotaryEmbedding(6, theta=100.0)(positions))
    for token, position in enumerate(positions.tolist()):
        for pair in range(3):
            angle = position * 100.0 ** (-2 * pair / 6)
            cos, sin = math.cos(angle), math.sin(angle)
            a, b = x[token, :, 2 * pair], x[token, :, 2 * pair + 1]
            torch.testing.assert_close(turned[token, :, 2 * pair], a * cos - b * sin)
            torch.testing.assert_close(turned[token, :, 2 * pair + 1], a * sin + b * cos)


def test_scores_see_the_distance_alone() -> None:
    q, k = torch.randn(1, 1, 8), torch.randn(1, 1, 8)
    rotary = RotaryEmbedding(8)
    scores = [
        (rotate(q, rotary(torch.tensor([p]))) * rotate(k, rotary(torch.tensor([p - 3])))).sum()
        for p in (3, 40)
    ]
    torch.testing.assert_close(scores[0], scores[1])


def test_odd_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="even head width, got 7"):
        RotaryEmbedding(7)


def test_keeps_the_dtype() -> None:
    x = torch.randn(2, 1, 4, dtype=torch.bfloat16)
    assert rotate(x, RotaryEmbedding(4)(torch.tensor([1, 2]))).dtype == torch.bfloat16
