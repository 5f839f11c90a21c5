"""Jagged attention inputs of awkward shapes, and what an attention op must make of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from torchrec_gr.ops import AttentionBias, KeySpans, hstu_attention, jagged_softmax_attention
from torchrec_gr.ops.hstu_attention_reference import hstu_attention_reference
from torchrec_gr.ops.jagged_softmax_attention_reference import jagged_softmax_attention_reference

# Of heads so many that luck has little say in the error of the slopes, one number a head.
NUM_HEADS, QK_DIM, V_DIM, MAX_SEQ_LEN = 8, 4, 3, 72
TABLES = ("slopes", "position_table", "time_table")

Attention = Callable[..., Tensor]
REFERENCES: dict[Attention, Attention] = {
    hstu_attention: hstu_attention_reference,
    jagged_softmax_attention: jagged_softmax_attention_reference,
}
both_ops = pytest.mark.parametrize("attend", list(REFERENCES), ids=lambda op: op.__name__)
both_dtypes = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"]
)


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
    max_seq_len: int = MAX_SEQ_LEN

    @property
    def tables(self) -> dict[str, Tensor]:
        tables = {name: getattr(self.bias, name, None) for name in TABLES}
        return {name: table for name, table in tables.items() if table is not None}

    @property
    def leaves(self) -> dict[str, Tensor]:
        return {"q": self.q, "k": self.k, "v": self.v, **self.tables}

    def positional(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, KeySpans]:
        return self.q, self.k, self.v, self.q_offsets, self.k_offsets, self.spans

    def attend(self, function: Attention, **options: Any) -> Tensor:
        """An op's, or a reference's, output."""
        return function(*self.positional(), max_seq_len=self.max_seq_len, bias=self.bias, **options)

    def to(self, dtype: torch.dtype) -> AttentionCase:
        """The same numbers in another dtype."""
        values = {name: _leaf(getattr(self, name), dtype) for name in ("q", "k", "v")}
        tables = {name: _leaf(table, dtype) for name, table in self.tables.items()}
        bias = dataclasses.replace(self.bias, **tables) if self.bias else None
        return dataclasses.replace(self, **values, bias=bias)


def make_case(
    num_queries: Sequence[int],
    num_keys: Sequence[int],
    *,
    own: str = "trailing",
    bias: str = "none",
    dtype: torch.dtype = torch.float32,
    num_heads: int = NUM_HEADS,
    dims: tuple[int, int] = (QK_DIM, V_DIM),
    max_seq_len: int = MAX_SEQ_LEN,
    seed: int = 0,
) -> AttentionCase:
    """Random values and spans; `own` is "trailing", "given" or "none", `bias` "none", "default"
    (positions and times left out where they may be) or "given"."""
    draw = torch.Generator().manual_seed(seed)
    q_lengths = torch.tensor(num_queries, dtype=torch.int64)
    k_lengths = torch.tensor(num_keys, dtype=torch.int64)
    keys_of_query = k_lengths.repeat_interleave(q_lengths)
    tq, tk = len(keys_of_query), int(k_lengths.sum())

    def leaf(*shape: int) -> Tensor:
        return _leaf(torch.randn(*shape, generator=draw), dtype)

    def place() -> Tensor:
        return (torch.rand(tq, generator=draw) * (keys_of_query + 4)).int() - 2

    owns = {
        "trailing": None,
        "none": torch.full((tq,), -1, dtype=torch.int32),
        "given": torch.minimum(place().clamp(min=-1), keys_of_query.int() - 1),
    }

    def times(count: int) -> Tensor:
        """Differences of every magnitude, so that pairs fall into every bucket."""
        return (8 * torch.rand(count, generator=draw)).exp().long()

    biases = {
        "none": lambda: None,
        "default": lambda: AttentionBias(
            slopes=leaf(num_heads),
            position_table=leaf(1, 2 * max_seq_len - 1),
            time_table=leaf(num_heads, 20),
            k_times=times(tk),
        ),
        "given": lambda: AttentionBias(
            position_table=leaf(num_heads, 2 * max_seq_len - 1),
            time_table=leaf(1, 20),
            q_positions=torch.randint(0, max_seq_len, (tq,), generator=draw),
            k_positions=torch.randint(0, max_seq_len, (tk,), generator=draw).int(),
            q_times=times(tq),
            k_times=times(tk).int(),
        ),
    }
    return AttentionCase(
        q=leaf(tq, num_heads, dims[0]),
        k=leaf(tk, num_heads, dims[0]),
        v=leaf(tk, num_heads, dims[1]),
        q_offsets=_offsets(q_lengths),
        k_offsets=_offsets(k_lengths),
        spans=KeySpans(place(), place(), owns[own]),
        bias=biases[bias](),
        max_seq_len=max_seq_len,
    )


def _leaf(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.detach().to(dtype).requires_grad_()


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


AWKWARD = [0, 1, 63, 7, 8, 9, 0, 64, 16, 17, 2]
FEWER = [0, 1, 3, 7, 1, 0, 0, 64, 5, 2, 1]

over_cases = pytest.mark.parametrize(
    "case",
    [
        pytest.param(make_case(AWKWARD, AWKWARD), id="self"),
        pytest.param(make_case(FEWER, AWKWARD), id="fewer_queries"),
        pytest.param(make_case(FEWER, AWKWARD, own="given"), id="own_given"),
        pytest.param(make_case(FEWER, AWKWARD, own="none"), id="own_none"),
        pytest.param(make_case([70, 3, 0], [2, 0, 5], own="given"), id="more_queries"),
        pytest.param(make_case(FEWER, AWKWARD, bias="default"), id="bias_default"),
        pytest.param(make_case(FEWER, AWKWARD, own="given", bias="given"), id="bias_given"),
        pytest.param(make_case([0, 0], [0, 0], bias="default"), id="all_empty"),
        pytest.param(make_case([0, 0], [3, 0], bias="default"), id="no_queries"),
        pytest.param(make_case([1], [1]), id="one_token"),
        pytest.param(make_case([3] * 20 + [300], [3] * 20 + [300]), id="one_long_row"),
    ],
)


def _small(num_queries: list[int], num_keys: list[int], **options: str) -> AttentionCase:
    return make_case(num_queries, num_keys, num_heads=2, dtype=torch.float64, **options)


small_cases = pytest.mark.parametrize(
    "case",
    [
        pytest.param(_small([0, 1, 3], [0, 1, 3]), id="self"),
        pytest.param(_small([2, 0, 3], [4, 1, 3], own="given", bias="given"), id="bias"),
        pytest.param(_small([2, 0, 1], [4, 1, 3], bias="default"), id="bias_default"),
        pytest.param(_small([1, 2], [3, 0], own="none"), id="no_key"),
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


def output_and_gradients(
    function: Attention, case: AttentionCase, **options: Any
) -> dict[str, Tensor]:
    """The output, and the gradients of q, k, v, the tables and a scale that is a tensor."""
    leaves = case.leaves
    if isinstance(options.get("scale"), Tensor):
        leaves["scale"] = options["scale"] = _leaf(options["scale"], case.q.dtype)
    output = case.attend(function, **options)
    gradients = torch.autograd.grad(output, list(leaves.values()), gradient_of(output))
    return {"output": output.detach(), **dict(zip(leaves, gradients, strict=True))}


def gradient_of(output: Tensor) -> Tensor:
    """A gradient to start from: the same numbers in every dtype."""
    draw = torch.Generator().manual_seed(9)
    return torch.randn(output.shape, generator=draw).bfloat16().to(output.dtype)


def assert_near_the_oracle(attend: Attention, case: AttentionCase, **options: Any) -> None:
    """Errors against the float64 reference are, of the output, at most twice, and of gradients at
    most five times, those that plain PyTorch (the reference in the dtype of the case) makes.

    The norm of an error is compared: its largest entry is a matter of luck.
    """
    ours = output_and_gradients(attend, case, **options)
    plain = output_and_gradients(REFERENCES[attend], case, **options)
    exact = output_and_gradients(REFERENCES[attend], case.to(torch.float64), **options)
    for name, expected in exact.items():
        assert ours[name].dtype == plain[name].dtype
        assert ours[name].shape == expected.shape
        error, of_plain = (float((x[name] - expected).norm()) for x in (ours, plain))
        # What none can avoid: to round to the dtype, and sums in float32 of terms of order 1.
        rounding = float(expected.norm()) * torch.finfo(case.q.dtype).eps / 2
        rounding += 2 * expected.numel() ** 0.5 * torch.finfo(torch.float32).eps
        allowed = (2 if name == "output" else 5) * of_plain + rounding
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"
