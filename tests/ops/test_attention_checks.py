"""Every wrong argument is named."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pytest
import torch

from tests.ops.attention_cases import MAX_SEQ_LEN, NUM_HEADS, AttentionCase, make_case
from torchrec_gr.ops import (
    AttentionBias,
    KeySpans,
    hstu_attention,
    jagged_softmax_attention,
)

T = 5


def _span(value: int, count: int = T) -> torch.Tensor:
    return torch.full((count,), value, dtype=torch.int32)


def _given_own(own: list[int]) -> KeySpans:
    return KeySpans(_span(0), _span(9), torch.tensor(own, dtype=torch.int32))


WRONG = [
    ("q", {"q": torch.zeros(T, 8)}),
    ("k", {"k": torch.zeros(T, NUM_HEADS, 5, dtype=torch.float64)}),
    ("v", {"v": torch.zeros(T, 1, 3, dtype=torch.float64)}),
    ("v", {"v": torch.zeros(T, NUM_HEADS, 3)}),
    ("q_offsets", {"q_offsets": torch.tensor([0.0, 2.0, 5.0])}),
    ("q_offsets", {"q_offsets": torch.tensor([0])}),
    ("q_offsets", {"q_offsets": torch.tensor([0, 2, 4])}),
    ("q_offsets", {"q_offsets": torch.tensor([0, 6, 5])}),
    ("k_offsets", {"k_offsets": torch.tensor([1, 2, 5])}),
    ("k_offsets", {"k_offsets": torch.tensor([0, 2, 4, 5])}),
    ("spans.start", {"spans": KeySpans(_span(0, 4), _span(9))}),
    ("spans.end", {"spans": KeySpans(_span(0), _span(9).long())}),
    ("spans.own", {"spans": _given_own([0, 1, 0, 1, 3])}),
    ("spans.own", {"spans": _given_own([0, 1, 0, 1, -2])}),
    ("spans.own", {"q_offsets": torch.tensor([0, 3, 5])}),
    ("bias", {"bias": AttentionBias()}),
    ("bias.slopes", {"bias": AttentionBias(slopes=torch.ones(1))}),
    ("bias.position_table", {"bias": AttentionBias(position_table=torch.ones(1, 9))}),
    ("bias.time_table", {"bias": AttentionBias(time_table=torch.ones(3, 9), k_times=_span(0))}),
    ("bias.k_times", {"bias": AttentionBias(time_table=torch.ones(1, 9))}),
    (
        "bias.q_positions",
        {"bias": AttentionBias(slopes=torch.ones(NUM_HEADS), q_positions=_span(0, 4))},
    ),
    (
        "bias.q_positions",
        {
            "bias": AttentionBias(slopes=torch.ones(NUM_HEADS)),
            "spans": _given_own([0, 1, 0, 1, -1]),
        },
    ),
    (
        "bias.k_positions",
        {
            "bias": AttentionBias(
                position_table=torch.ones(1, 2 * MAX_SEQ_LEN - 1), k_positions=_span(MAX_SEQ_LEN)
            )
        },
    ),
]


@pytest.mark.parametrize("attend", [hstu_attention, jagged_softmax_attention])
@pytest.mark.parametrize(("name", "change"), WRONG)
def test_names_the_wrong_argument(
    attend: Callable[..., torch.Tensor], name: str, change: dict[str, object]
) -> None:
    case: AttentionCase = dataclasses.replace(make_case([2, 3], [2, 3]), **change)
    with pytest.raises(ValueError, match=f"^{re.escape(name)}: "):
        attend(*case.positional(), max_seq_len=MAX_SEQ_LEN, bias=case.bias)


def test_names_a_wrong_number() -> None:
    case = make_case([2, 3], [2, 3])
    with pytest.raises(ValueError, match=r"^max_seq_len: "):
        jagged_softmax_attention(*case.positional(), max_seq_len=0)
    with pytest.raises(ValueError, match=r"^scale: "):
        hstu_attention(*case.positional(), max_seq_len=9, scale=torch.ones(T, 1))
