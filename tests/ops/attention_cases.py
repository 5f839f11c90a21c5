"""Jagged attention inputs of awkward shapes, for the tests of both attention ops."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from torchrec_gr.ops.attention_bias import AttentionBias
from torchrec_gr.ops.attention_spans import KeySpans

NUM_HEADS, QK_WIDTH, V_WIDTH, MAX_SEQ_LEN = 2, 4, 3, 72


@dataclasses.dataclass
class AttentionCase:
    """The arguments of an attention op, q, k, v and tables being leaves that take gradients."""

    q: Tensor
    k: Tensor
    v: Tensor
    q_offsets: Tensor
    k_offsets: Tensor
    spans: KeySpans
    bias: AttentionBias | None = None

    @property
    def leaves(self) -> list[Tensor]:
        tables = (
            []
            if self.bias is None
            else [self.bias.slopes, self.bias.position_table, self.bias.time_table]
        )
        return [self.q, self.k, self.v, *(t for t in tables if t is not None)]

    def positional(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, KeySpans]:
        return self.q, self.k, self.v, self.q_offsets, self.k_offsets, self.spans


def make_case(
    num_queries: Sequence[int],
    num_keys: Sequence[int],
    *,
    own: str = "trailing",
    bias: str = "none",
    offsets_dtype: torch.dtype = torch.int64,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> AttentionCase:
    """Random values and spans; `own` is "trailing", "given" or "none", `bias` "none", "default"
    (positions and times left out where they may be) or "given"."""
    draw = torch.Generator().manual_seed(seed)
    q_lengths, k_lengths = torch.tensor(num_queries), torch.tensor(num_keys)
    keys_of_query = k_lengths.repeat_interleave(q_lengths)
    tq, tk = len(keys_of_query), int(k_lengths.sum())

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(dtype).requires_grad_()

    def place() -> Tensor:
        return (torch.rand(tq, generator=draw) * (keys_of_query + 4)).int() - 2

    owns = {
        "trailing": None,
        "none": torch.full((tq,), -1, dtype=torch.int32),
        "given": torch.minimum(place().clamp(min=-1), keys_of_query.int() - 1),
    }
    times = torch.randint(0, 10**6, (tk,), generator=draw)
    biases = {
        "none": lambda: None,
        "default": lambda: AttentionBias(
            slopes=leaf(NUM_HEADS),
            position_table=leaf(1, 2 * MAX_SEQ_LEN - 1),
            time_table=leaf(NUM_HEADS, 20),
            k_times=times,
        ),
        "given": lambda: AttentionBias(
            position_table=leaf(NUM_HEADS, 2 * MAX_SEQ_LEN - 1),
            time_table=leaf(1, 20),
            q_positions=torch.randint(0, MAX_SEQ_LEN, (tq,), generator=draw),
            k_positions=torch.randint(0, MAX_SEQ_LEN, (tk,), generator=draw),
            q_times=torch.randint(0, 10**6, (tq,), generator=draw),
            k_times=times,
        ),
    }
    return AttentionCase(
        q=leaf(tq, NUM_HEADS, QK_WIDTH),
        k=leaf(tk, NUM_HEADS, QK_WIDTH),
        v=leaf(tk, NUM_HEADS, V_WIDTH),
        q_offsets=_offsets(q_lengths, offsets_dtype),
        k_offsets=_offsets(k_lengths, offsets_dtype),
        spans=KeySpans(place(), place(), owns[own]),
        bias=biases[bias](),
    )


def _offsets(lengths: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(dtype)


AWKWARD = [0, 1, 63, 7, 8, 9, 0, 64, 16, 17, 2]
FEWER = [0, 1, 3, 7, 1, 0, 0, 64, 5, 2, 1]

CASES: list[tuple[str, Callable[[], AttentionCase]]] = [
    ("self", lambda: make_case(AWKWARD, AWKWARD)),
    ("int32", lambda: make_case(AWKWARD, AWKWARD, offsets_dtype=torch.int32)),
    ("fewer_queries", lambda: make_case(FEWER, AWKWARD)),
    ("own_given", lambda: make_case(FEWER, AWKWARD, own="given")),
    ("own_none", lambda: make_case(FEWER, AWKWARD, own="none")),
    ("more_queries", lambda: make_case([70, 3, 0], [2, 0, 5], own="given")),
    ("bias_default", lambda: make_case(FEWER, AWKWARD, bias="default")),
    ("bias_given", lambda: make_case(FEWER, AWKWARD, own="given", bias="given")),
    ("all_empty", lambda: make_case([0, 0], [0, 0])),
    ("no_queries", lambda: make_case([0, 0], [3, 0])),
    ("one_token", lambda: make_case([1], [1])),
]

over_cases = pytest.mark.parametrize("make", [make for _, make in CASES], ids=[n for n, _ in CASES])

small_cases = pytest.mark.parametrize(
    "case",
    [
        pytest.param(make_case([0, 1, 3], [0, 1, 3]), id="self"),
        pytest.param(make_case([2, 0, 3], [4, 1, 3], own="given", bias="given"), id="bias"),
        pytest.param(make_case([2, 0, 1], [4, 1, 3], bias="default"), id="bias_default"),
        pytest.param(make_case([1, 2], [3, 0], own="none"), id="no_key"),
    ],
)


def visible_by_definition(case: AttentionCase, row: int) -> list[list[bool]]:
    """Which key each query of a row sees, word for word as the design says it."""
    q_first, q_last = case.q_offsets[row : row + 2].tolist()
    k_first, k_last = case.k_offsets[row : row + 2].tolist()
    num_queries, num_keys = q_last - q_first, k_last - k_first
    seen = []
    for i in range(num_queries):
        start, end = int(case.spans.start[q_first + i]), int(case.spans.end[q_first + i])
        own = num_keys - num_queries + i
        if case.spans.own is not None:
            own = int(case.spans.own[q_first + i])
        seen.append([start <= j < end or j == own for j in range(num_keys)])
    return seen


def assert_same(
    function: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    case: AttentionCase,
    **options: object,
) -> None:
    """Compares values and the gradient of every leaf."""
    ours = function(*case.positional(), max_seq_len=MAX_SEQ_LEN, bias=case.bias, **options)
    theirs = reference(*case.positional(), max_seq_len=MAX_SEQ_LEN, bias=case.bias, **options)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(9), dtype=ours.dtype)
    our_gradients = torch.autograd.grad((ours * weights).sum(), case.leaves)
    their_gradients = torch.autograd.grad((theirs * weights).sum(), case.leaves)
    for ours, theirs in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
