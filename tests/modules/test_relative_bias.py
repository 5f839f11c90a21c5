"""What a layer adds to its scores: slopes as published, tables by distance and elapsed time."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from tests.modules.trunk_rows import TrunkCase, make_case
from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.relative_bias import BiasKind, RelativeBias, alibi_slopes


def _row(times: list[int]) -> AttentionRows:
    case: TrunkCase = make_case(max_seq_len=8, lengths=(len(times),))
    return dataclasses.replace(
        case.rows, times=torch.tensor(times), query_times=None, positions=None
    )


def _scores(bias: RelativeBias, rows: AttentionRows) -> Tensor:
    """[H or 1, Tq, T] of a single row."""
    given = bias(rows)
    assert given is not None
    scores: Tensor = given.with_defaults(rows.q_offsets, rows.k_offsets, rows.spans).scores()
    return scores


@pytest.mark.parametrize(
    ("num_heads", "exponents"),
    [
        (1, [8]),
        (2, [4, 8]),
        (3, [4, 8, 2]),
        (4, [2, 4, 6, 8]),
        (6, [2, 4, 6, 8, 1, 3]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
    ],
)
def test_alibi_slopes_as_published(num_heads: int, exponents: list[float]) -> None:
    """No power of two: the slopes of the one below, then every other of the one above."""
    assert alibi_slopes(num_heads) == pytest.approx([2**-e for e in exponents])


def test_no_bias() -> None:
    bias = RelativeBias("none", 2, 8)
    assert bias(_row([1, 2])) is None
    assert not list(bias.parameters())


def test_alibi_has_no_weights_and_is_not_saved() -> None:
    bias = RelativeBias("alibi", 2, 8)
    assert not bias.state_dict()
    scores = _scores(bias, _row([0, 0, 0]))
    assert scores[:, 2].tolist() == [[-2 / 16, -1 / 16, 0.0], [-2 / 256, -1 / 256, 0.0]]


def test_the_position_table_is_read_by_distance() -> None:
    bias = RelativeBias("position", 2, 8)
    assert bias.position_table is not None
    assert bias.position_table.shape == (1, 15)
    scores = _scores(bias, _row([5] * 8))
    for i in range(8):
        for j in range(8):
            assert scores[0, i, j] == bias.position_table[0, j - i + 7]


def test_time_buckets_grow_with_the_logarithm_up_to_the_last() -> None:
    """Elapsed 0 and 1 fall into bucket 0, 2 into 2, 10 into 7; beyond the last into the last."""
    bias = RelativeBias("position_time", 1, 8)
    assert bias.position_table is not None
    assert bias.time_table is not None
    assert bias.time_table.shape == (1, 129)
    with torch.no_grad():
        bias.position_table.zero_()
        bias.time_table.copy_(torch.arange(129.0)[None])
    now, long_ago = 10**8, -6 * 10**16
    scores = _scores(bias, _row([long_ago, now - 86_400, now - 10, now - 2, now - 1, now]))
    day = math.floor(math.log(86_400) / 0.301)
    assert scores[0, 5].tolist() == [128.0, day, 7.0, 2.0, 0.0, 0.0]
    asked_later = dataclasses.replace(_row([7, 8]), query_times=torch.tensor([8, 18]))
    assert _scores(bias, asked_later)[0].tolist() == [[0.0, 0.0], [7.0, 7.0]]


@pytest.mark.parametrize("kind", ["position", "position_time", "alibi"])
def test_tokens_at_one_given_position_are_alike(kind: BiasKind) -> None:
    """Candidates stand behind the history, whatever their order."""
    rows = dataclasses.replace(_row([3, 4, 9, 9, 9]), positions=torch.tensor([0, 1, 2, 2, 2]))
    scores = _scores(RelativeBias(kind, 2, 8), rows)
    assert torch.equal(scores[:, 2], scores[:, 3])
    assert torch.equal(scores[:, 2], scores[:, 4])
    assert not torch.equal(scores[:, 1], scores[:, 2])
    wanted = torch.tensor([1, 4])
    narrowed = _scores(RelativeBias(kind, 2, 8), rows.narrowed_to(wanted))
    assert narrowed.shape[1] == 2
    bias = RelativeBias(kind, 2, 8)
    assert torch.equal(_scores(bias, rows.narrowed_to(wanted)), _scores(bias, rows)[:, wanted])


def test_a_time_table_needs_times() -> None:
    rows = dataclasses.replace(_row([1, 2]), times=None)
    with pytest.raises(ValueError, match="configure bias 'position' for a log that knows only"):
        RelativeBias("position_time", 1, 8)(rows)
    assert RelativeBias("position", 1, 8)(rows) is not None
