"""Every wrong argument is named, whichever way it is wrong."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.attention_cases import (
    MAX_SEQ_LEN,
    NUM_HEADS,
    Attention,
    AttentionCase,
    both_ops,
    make_case,
)
from torchrec_gr.ops import AttentionBias, KeySpans, hstu_attention

T = 5
SLOPES, TABLE = torch.ones(NUM_HEADS), torch.ones(1, 2 * MAX_SEQ_LEN - 1)


def _span(value: int, count: int = T) -> Tensor:
    return torch.full((count,), value, dtype=torch.int32)


def _given_own(own: list[int]) -> KeySpans:
    return KeySpans(_span(0), _span(9), torch.tensor(own, dtype=torch.int32))


def _biased(own: list[int] | None = None, **fields: Tensor) -> dict[str, Any]:
    """A bias, and spans with the own keys that are given."""
    spans = {} if own is None else {"spans": _given_own(own)}
    return {"bias": AttentionBias(**fields), **spans}


def _too_many() -> dict[str, Tensor]:
    """More keys than an int32 counts, which take no memory."""
    k = torch.zeros(1, NUM_HEADS, 4).expand(2**31, -1, -1)
    return {"k": k, "v": k, "k_offsets": torch.tensor([0, 3, 2**31])}


NO_OWN = [0, 1, 0, 1, -1]
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("q", {"q": torch.tensor(1.0)}),
    ("q", {"q": torch.zeros(T, 8)}),
    ("q", {"q": torch.zeros(T, NUM_HEADS, 4, dtype=torch.int64)}),
    ("q", {name: torch.zeros(T, NUM_HEADS, 4).double() for name in "qkv"}),
    ("q", {name: torch.zeros(T, NUM_HEADS, 4).half() for name in "qkv"}),
    ("q", {name: torch.zeros(T, 0, 4) for name in "qkv"}),
    ("q", {name: torch.zeros(T, NUM_HEADS, 0) for name in "qkv"}),
    ("q", {name: torch.zeros(T, NUM_HEADS, 257) for name in "qkv"}),
    ("k", {"k": torch.zeros(T, NUM_HEADS)}),
    ("k", {"k": torch.zeros(T, NUM_HEADS, 5)}),
    ("k", {"k": torch.zeros(T, 3, 4)}),
    ("k", {"k": torch.zeros(T, NUM_HEADS, 4).bfloat16()}),
    ("k", {"k": torch.zeros(T, NUM_HEADS, 4, device="meta")}),
    ("k", _too_many()),
    ("v", {"v": torch.zeros(T, 1, 3)}),
    ("v", {"v": torch.zeros(T + 1, NUM_HEADS, 3)}),
    ("v", {"v": torch.zeros(T, NUM_HEADS, 257)}),
    ("v", {"v": torch.zeros(T, NUM_HEADS, 3).bfloat16()}),
    ("q_offsets", {"q_offsets": torch.tensor([0.0, 2.0, 5.0])}),
    ("q_offsets", {"q_offsets": torch.tensor([0])}),
    ("q_offsets", {"q_offsets": torch.tensor([[0, 2, 5]])}),
    ("q_offsets", {"q_offsets": torch.tensor([0, 2, 4])}),
    ("q_offsets", {"q_offsets": torch.tensor([0, 6, 5])}),
    ("q_offsets", {"q_offsets": torch.tensor([0, 6, 5], dtype=torch.int32)}),
    ("q_offsets", {"q_offsets": torch.tensor([0, 2, 5], device="meta")}),
    ("k_offsets", {"k_offsets": torch.tensor([1, 2, 5])}),
    ("k_offsets", {"k_offsets": torch.tensor([0, -1, 5])}),
    ("k_offsets", {"k_offsets": torch.tensor([0, 2**40, 5])}),
    ("k_offsets", {"k_offsets": torch.tensor([0, 2, 4, 5])}),
    ("spans.start", {"spans": KeySpans(_span(0, 4), _span(9))}),
    ("spans.end", {"spans": KeySpans(_span(0), _span(9).long())}),
    ("spans.end", {"spans": KeySpans(_span(0), _span(9).to("meta"))}),
    ("spans.own", {"spans": KeySpans(_span(0), _span(9), _span(0, 4))}),
    ("spans.own", {"spans": _given_own([0, 1, 0, 1, 3])}),
    ("spans.own", {"spans": _given_own([0, 2, 0, 1, 2])}),
    ("spans.own", {"spans": _given_own([0, 1, 0, 1, -2])}),
    ("spans.own", {"q_offsets": torch.tensor([0, 3, 5])}),
    ("bias", _biased()),
    ("bias", _biased(k_positions=_span(0))),
    ("bias.slopes", _biased(slopes=torch.ones(1))),
    ("bias.slopes", _biased(slopes=_span(1, NUM_HEADS))),
    ("bias.slopes", _biased(slopes=SLOPES.to("meta"))),
    ("bias.position_table", _biased(position_table=torch.ones(1, 9))),
    ("bias.position_table", _biased(position_table=TABLE.expand(3, -1))),
    ("bias.position_table", _biased(position_table=TABLE[0])),
    ("bias.position_table", _biased(position_table=TABLE.int())),
    ("bias.time_table", _biased(time_table=torch.ones(3, 9), k_times=_span(0))),
    ("bias.time_table", _biased(time_table=torch.ones(1, 0), k_times=_span(0))),
    ("bias.k_times", _biased(time_table=torch.ones(1, 9))),
    ("bias.k_times", _biased(time_table=torch.ones(1, 9), k_times=_span(0).float())),
    ("bias.q_times", _biased(time_table=torch.ones(1, 9), k_times=_span(0), q_times=_span(0, 4))),
    ("bias.q_times", _biased(NO_OWN, time_table=torch.ones(1, 9), k_times=_span(0))),
    ("bias.q_positions", _biased(slopes=SLOPES, q_positions=_span(0, 4))),
    ("bias.q_positions", _biased(NO_OWN, slopes=SLOPES)),
    ("bias.q_positions", _biased(position_table=TABLE, q_positions=_span(-1))),
    ("bias.q_positions", _biased(slopes=SLOPES, q_positions=_span(0).long() - 2**31)),
    ("bias.k_positions", _biased(slopes=SLOPES, k_positions=_span(2**30))),
    ("bias.k_positions", _biased(slopes=SLOPES, k_positions=_span(0).long() + 2**32)),
    ("bias.k_positions", _biased(position_table=TABLE, k_positions=_span(MAX_SEQ_LEN))),
    ("bias.k_positions", _biased(position_table=TABLE, k_positions=_span(0).long() + 2**32)),
]


@both_ops
@pytest.mark.parametrize(("name", "change"), WRONG)
def test_names_the_wrong_argument(attend: Attention, name: str, change: dict[str, Any]) -> None:
    case: AttentionCase = dataclasses.replace(make_case([2, 3], [2, 3]), **change)
    with pytest.raises(ValueError, match=rf"^{re.escape(name)}: expected .* got "):
        case.attend(attend)


@both_ops
def test_a_default_place_must_be_in_the_position_table(attend: Attention) -> None:
    """Of a key, and of a query's own key where the keys' positions are given."""
    case = make_case([2, 3], [2, 3])
    narrow = torch.ones(1, 3)  # max_seq_len 2: places 0 and 1
    for name, given in (("k", {"q_positions": _span(0)}), ("q", {"k_positions": _span(0)})):
        bias = AttentionBias(position_table=narrow, **given)
        with pytest.raises(ValueError, match=rf"^bias\.{name}_positions: .* got 0 to 2$"):
            attend(*case.positional(), max_seq_len=2, bias=bias)


@both_ops
@pytest.mark.parametrize("max_seq_len", [0, -1, 2**31])
def test_names_a_wrong_max_seq_len(attend: Attention, max_seq_len: int) -> None:
    with pytest.raises(ValueError, match=rf"^max_seq_len: expected .* got {max_seq_len}$"):
        attend(*make_case([2, 3], [2, 3]).positional(), max_seq_len=max_seq_len)


@pytest.mark.parametrize(
    "scale", [torch.ones(T, 1), torch.ones(T).int(), torch.ones(T, device="meta")], ids=str
)
def test_names_a_wrong_scale(scale: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^scale: expected .* got "):
        hstu_attention(*make_case([2, 3], [2, 3]).positional(), max_seq_len=9, scale=scale)


@both_ops
def test_spans_may_reach_past_the_row(attend: Attention) -> None:
    case = make_case([2, 3], [2, 3])
    largest = torch.iinfo(torch.int32)
    row_end = torch.tensor([2, 2, 3, 3, 3], dtype=torch.int32)
    whole = dataclasses.replace(case, spans=KeySpans(_span(0), row_end))
    past = dataclasses.replace(case, spans=KeySpans(_span(largest.min), _span(largest.max)))
    assert torch.equal(past.attend(attend), whole.attend(attend))


@pytest.mark.parametrize("op", ["hstu_attention", "jagged_softmax_attention"])
def test_the_backward_op_checks_what_it_takes_beside(op: str) -> None:
    case = make_case([2, 3], [2, 3])
    softmax = op == "jagged_softmax_attention"
    right = {"grad": torch.ones(T, NUM_HEADS, 3)}
    if softmax:
        right |= {"output": torch.ones(T, NUM_HEADS, 3), "log_sum_exp": torch.ones(T, NUM_HEADS)}
    values = [x.detach() for x in case.positional()[:5]]
    arguments = [*values, case.spans.start, case.spans.end, *[None] * 8, MAX_SEQ_LEN, 1.0]
    arguments += [] if softmax else [1.0]
    backward = getattr(torch.ops.torchrec_gr, f"{op}_backward")
    backward(*right.values(), *arguments)
    for name, x in right.items():
        for wrong in (x[:4], x[..., None], x.double()):
            with pytest.raises(ValueError, match=rf"^{name}: expected .* got "):
                backward(*(right | {name: wrong}).values(), *arguments)
