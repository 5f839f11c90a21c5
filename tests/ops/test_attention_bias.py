"""The bias matrices against the definition, entry by entry."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from torchrec_gr.ops.attention_bias import AttentionBias, time_buckets
from torchrec_gr.ops.attention_spans import KeySpans

NO_TIME = torch.iinfo(torch.int64).min


def test_scores_are_the_definition() -> None:
    max_seq_len, heads = 6, 2
    bias = AttentionBias(
        slopes=torch.tensor([0.5, 0.25], dtype=torch.float64),
        position_table=torch.randn(1, 2 * max_seq_len - 1, dtype=torch.float64),
        time_table=torch.randn(heads, 4, dtype=torch.float64),
        q_positions=torch.tensor([5, 0]),
        k_positions=torch.tensor([0, 1, 5]),
        q_times=torch.tensor([100, 7]),
        k_times=torch.tensor([0, 7, 99]),
    )
    scores = bias.scores()
    assert scores.shape == (heads, 2, 3)
    for head in range(heads):
        for i, (p_q, t_q) in enumerate([(5, 100), (0, 7)]):
            for j, (p_k, t_k) in enumerate([(0, 0), (1, 7), (5, 99)]):
                bucket = min(int(math.log(max(abs(t_q - t_k), 1)) / 0.301), 3)
                expected = (
                    -float(bias.slopes[head]) * abs(p_q - p_k)
                    + float(bias.position_table[0, p_k - p_q + max_seq_len - 1])
                    + float(bias.time_table[head, bucket])
                )
                assert float(scores[head, i, j]) == pytest.approx(expected)


def test_time_buckets() -> None:
    elapsed = torch.tensor([0, 1, 2, 3, 10, 86_400, 10**12])
    expected = [min(int(math.log(max(e, 1)) / 0.301), 40) for e in elapsed.tolist()]
    assert time_buckets(elapsed, torch.zeros(1, dtype=torch.int64), 41).tolist() == expected
    assert time_buckets(-elapsed, torch.zeros(1, dtype=torch.int64), 41).tolist() == expected


def test_an_unknown_time_is_far_from_known_ones_and_near_other_unknown_ones() -> None:
    unknown, known = torch.tensor([NO_TIME]), torch.tensor([1_650_000_000_000])
    assert time_buckets(unknown, known, 129).tolist() == [128]
    assert time_buckets(known, unknown, 129).tolist() == [128]
    assert time_buckets(unknown, unknown, 129).tolist() == [0]


def test_defaults_are_places_in_the_row() -> None:
    """Two rows, of 3 and 2 keys; the second has one query only, its last."""
    q_offsets, k_offsets = torch.tensor([0, 3, 4]), torch.tensor([0, 3, 5])
    spans = KeySpans(torch.zeros(4).int(), torch.zeros(4).int())
    bias = AttentionBias(
        slopes=torch.ones(1), time_table=torch.ones(1, 3), k_times=torch.arange(5) * 10
    )
    filled = bias.with_defaults(q_offsets, k_offsets, spans)
    assert filled.q_positions.tolist() == [0, 1, 2, 1]
    assert filled.k_positions.tolist() == [0, 1, 2, 0, 1]
    assert filled.q_times.tolist() == [0, 10, 20, 40]
    own = dataclasses.replace(spans, own=torch.tensor([2, 0, 0, 0]).int())
    filled = bias.with_defaults(q_offsets, k_offsets, own)
    assert filled.q_positions.tolist() == [2, 0, 0, 0]
    assert filled.q_times.tolist() == [20, 0, 0, 30]
