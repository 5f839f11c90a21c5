"""What holds for both attention ops: right, deterministic, frugal, and clear where they refuse."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.ops.attention_cases import (
    AWKWARD,
    NUM_HEADS,
    REFERENCES,
    Attention,
    AttentionCase,
    assert_near_the_oracle,
    both_dtypes,
    both_ops,
    gradient_of,
    make_case,
    output_and_gradients,
    over_cases,
)
from torchrec_gr.ops import KeySpans

REPO = Path(__file__).parents[2]


@both_ops
@both_dtypes
@over_cases
def test_near_the_reference(attend: Attention, dtype: torch.dtype, case: AttentionCase) -> None:
    assert_near_the_oracle(attend, case.to(dtype))
    assert_near_the_oracle(attend, case.to(dtype), alpha=0.7)


@both_ops
@both_dtypes
@pytest.mark.parametrize(
    "dims", [(8, 8), (25, 50), (50, 25), (64, 64), (1, 1), (256, 8), (8, 256), (32, 33)], ids=str
)
def test_any_width(attend: Attention, dtype: torch.dtype, dims: tuple[int, int]) -> None:
    assert_near_the_oracle(attend, make_case([5, 0, 66], [5, 3, 66], dims=dims, dtype=dtype))


@st.composite
def cases(draw: st.DrawFn) -> AttentionCase:
    """Any shape: rows, queries, keys, heads, widths, own places, bias and dtype."""
    num_keys = draw(st.lists(st.integers(0, 40), min_size=1, max_size=6))
    own = draw(st.sampled_from(["trailing", "given", "none"]))
    num_queries = [draw(st.integers(0, n if own == "trailing" else 40)) for n in num_keys]
    return make_case(
        num_queries,
        num_keys,
        own=own,
        # Without own keys positions and times must be given.
        bias=draw(st.sampled_from(["none", "given", *["default"] * (own == "trailing")])),
        num_heads=draw(st.integers(1, 3)),
        dims=(draw(st.integers(1, 70)), draw(st.integers(1, 70))),
        dtype=draw(st.sampled_from([torch.float32, torch.bfloat16])),
        seed=draw(st.integers(0, 1000)),
    )


@both_ops
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(case=cases())
def test_any_shape(attend: Attention, case: AttentionCase) -> None:
    """In norm, beside values of order 1: the error of few numbers is too much a matter of luck to
    be compared with that of PyTorch."""
    ours = output_and_gradients(attend, case)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[case.q.dtype]
    exact = output_and_gradients(REFERENCES[attend], case.to(torch.float64))
    for name, expected in exact.items():
        error = float((ours[name] - expected).norm())
        assert error <= tolerance * (float(expected.norm()) + expected.numel() ** 0.5), name


@both_ops
@pytest.mark.parametrize("bias", ["default", "given"])
def test_tables_of_another_dtype_have_gradients_in_it(attend: Attention, bias: str) -> None:
    """Exact tables beside bfloat16 values, and the reverse; the reckoning is the same."""
    case = make_case(AWKWARD, AWKWARD, bias=bias, dtype=torch.bfloat16)
    expected = output_and_gradients(attend, case)
    for dtype in (torch.float32, torch.float64, torch.float16):
        tables = case.to(dtype).bias
        got = output_and_gradients(attend, dataclasses.replace(case, bias=tables))
        for name, gradient in got.items():
            assert gradient.dtype == (dtype if name in case.tables else torch.bfloat16)
            torch.testing.assert_close(gradient.bfloat16(), expected[name])


@both_ops
def test_int32_offsets(attend: Attention) -> None:
    case = make_case(AWKWARD, AWKWARD)
    narrow = dataclasses.replace(
        case, q_offsets=case.q_offsets.int(), k_offsets=case.k_offsets.int()
    )
    assert torch.equal(case.attend(attend), narrow.attend(attend))


@both_ops
@both_dtypes
def test_strides(attend: Attention, dtype: torch.dtype) -> None:
    """Chunks of a fused projection, and values with tokens last or one token for all."""
    width = 8
    fused = torch.randn(20, NUM_HEADS, 3 * width).to(dtype)
    q, k, v = fused.chunk(3, dim=2)
    one = torch.randn(1, NUM_HEADS, width).to(dtype).expand(20, -1, -1)
    last = torch.randn(NUM_HEADS, width, 20).to(dtype).permute(2, 0, 1)
    case = make_case([5, 15], [5, 15])
    for values in ((q, k, v), (q, last, v), (one, k, last), (last, one, one)):
        strided = [x.detach().requires_grad_() for x in values]
        dense = [x.detach().contiguous().requires_grad_() for x in values]
        results = []
        for leaves in (strided, dense):
            output = dataclasses.replace(case, **dict(zip("qkv", leaves, strict=True))).attend(
                attend
            )
            # A sum's gradient is one number of stride 0.
            results.append([output, *torch.autograd.grad(output.sum(), leaves)])
        for ours, theirs in zip(*results, strict=True):
            assert torch.equal(ours, theirs)


@both_ops
def test_gradients_are_found_for_what_needs_them_alone(attend: Attention) -> None:
    case = make_case([2, 3], [2, 3], bias="default")
    expected = output_and_gradients(attend, case)
    for name, leaf in case.leaves.items():
        for other in case.leaves.values():
            other.requires_grad_(other is leaf)
        output = case.attend(attend)
        (gradient,) = torch.autograd.grad(output, [leaf], gradient_of(output))
        assert torch.equal(gradient, expected[name])


@both_ops
def test_no_second_derivative(attend: Attention) -> None:
    case = make_case([2, 3], [2, 3])
    (gradient,) = torch.autograd.grad(case.attend(attend).sum(), [case.q], create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        gradient.sum().backward()


@both_ops
def test_autocast(attend: Attention) -> None:
    """As in scaled_dot_product_attention: values in its dtype, gradients in the parameters'."""
    case = make_case([5, 20], [5, 20], bias="default")
    mixed = dataclasses.replace(case, k=case.to(torch.bfloat16).k)
    narrow = dataclasses.replace(case.to(torch.bfloat16), bias=case.bias)
    expected = narrow.attend(attend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = mixed.attend(attend)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected)
    output.sum().backward()
    for name, leaf in mixed.leaves.items():
        assert leaf.grad is not None
        assert leaf.grad.dtype == (torch.bfloat16 if name == "k" else torch.float32)


@both_ops
def test_a_query_that_sees_no_key_gets_zeros(attend: Attention) -> None:
    case = make_case([2, 1], [3, 0], own="none")
    case.spans.end.copy_(case.spans.start)
    for result in output_and_gradients(attend, case).values():
        assert result.abs().max() == 0


@both_ops
def test_scores_beyond_the_range_of_exp(attend: Attention) -> None:
    """As near as scores are: one of size s is itself rounded by s * eps."""
    alpha, case = 30.0, make_case(AWKWARD, AWKWARD)
    q, k = case.q.detach(), case.k.detach()
    largest_score = float(alpha * q.norm(dim=2).max() * k.norm(dim=2).max())
    assert largest_score > 2 * math.log(torch.finfo(torch.float32).max)
    ours = output_and_gradients(attend, case, alpha=alpha)
    exact = output_and_gradients(REFERENCES[attend], case.to(torch.float64), alpha=alpha)
    for name, expected in exact.items():
        error = (ours[name] - expected).abs().max() / expected.abs().max()
        assert error < largest_score * torch.finfo(torch.float32).eps, name


@both_ops
def test_a_row_does_not_depend_on_its_batch(attend: Attention) -> None:
    """A NaN in one row stays there."""
    case = make_case([5, 6, 40], [5, 6, 40])
    alone = case.attend(attend)
    with torch.no_grad():
        case.v[5:11] = math.nan
    beside = case.attend(attend)
    assert beside[5:11].isnan().any()
    assert torch.equal(beside[:5], alone[:5])
    assert torch.equal(beside[11:], alone[11:])


@both_ops
def test_ten_thousand_rows(attend: Attention) -> None:
    """A thousand times the same ten rows."""
    count = 1000
    case = make_case([0, 1, 3, 2, 0, 7, 1, 1, 2, 3], [0, 1, 3, 2, 4, 7, 2, 1, 2, 3], bias="given")
    copies = _copies(case, count)
    output = copies.attend(attend)
    gradient = gradient_of(case.q.new_empty(len(case.q), *output.shape[1:]))
    gradients = torch.autograd.grad(
        output, list(copies.leaves.values()), torch.cat([gradient] * count)
    )
    actual = {"output": output.detach(), **dict(zip(copies.leaves, gradients, strict=True))}
    for name, of_one in output_and_gradients(attend, case).items():
        if name in case.tables:  # adding so many terms one after the other may lose so much
            lost = count * torch.finfo(torch.float32).eps * float((of_one * count).abs().max())
            torch.testing.assert_close(actual[name], of_one * count, rtol=0, atol=lost)
        else:
            torch.testing.assert_close(actual[name], torch.cat([of_one] * count))


def _copies(case: AttentionCase, count: int) -> AttentionCase:
    """The case's rows, `count` times over."""

    def tokens(x: Tensor | None) -> Tensor | None:
        return x if x is None else torch.cat([x.detach()] * count)

    def offsets(of_one: Tensor) -> Tensor:
        return torch.cat([of_one[:1], of_one.diff().repeat(count).cumsum(0)])

    per_token = ("q_positions", "k_positions", "q_times", "k_times")
    copied = {name: tokens(getattr(case.bias, name)) for name in per_token}
    return dataclasses.replace(
        case,
        **{name: tokens(getattr(case, name)).requires_grad_() for name in ("q", "k", "v")},
        q_offsets=offsets(case.q_offsets),
        k_offsets=offsets(case.k_offsets),
        spans=KeySpans(tokens(case.spans.start), tokens(case.spans.end), tokens(case.spans.own)),
        bias=dataclasses.replace(case.bias, **copied),
    )


@pytest.fixture(params=[1, 3])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@both_ops
@both_dtypes
def test_any_number_of_threads(attend: Attention, dtype: torch.dtype, num_threads: int) -> None:
    """The right result, and two runs give the same bits, though one row is most of the work."""
    assert torch.get_num_threads() == num_threads
    lengths = [*AWKWARD, 700, 4, 130]
    case = make_case(lengths, lengths, bias="given", dtype=dtype, max_seq_len=700)
    assert_near_the_oracle(attend, case)
    first, second = output_and_gradients(attend, case), output_and_gradients(attend, case)
    for name, result in first.items():
        assert torch.equal(result, second[name]), name


PEAK_MEMORY = """
import torch
from torchrec_gr import ops

def status(name):
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))

def attend(attend, num_tokens):
    table, buckets, slopes, q, k, v = (
        torch.randn(*shape, requires_grad=True)
        for shape in [(1, 2 * num_tokens - 1), (1, 20), (1,), *[(num_tokens, 1, 8)] * 3]
    )
    offsets, places = torch.tensor([0, num_tokens]), torch.arange(num_tokens, dtype=torch.int32)
    spans = ops.KeySpans(torch.zeros_like(places), places)
    bias = ops.AttentionBias(slopes, table, buckets, k_times=places)
    attend(q, k, v, offsets, offsets, spans, max_seq_len=num_tokens, bias=bias).sum().backward()

torch.set_num_threads(2)
for op in (ops.hstu_attention, ops.jagged_softmax_attention):
    attend(op, 512)
before = status("VmRSS")
for op in (ops.hstu_attention, ops.jagged_softmax_attention):
    attend(op, 8192)
print(status("VmHWM") - before)
"""


def test_memory_grows_with_tokens_and_not_with_their_square() -> None:
    """Forward and backward over a row of N tokens, with every bias, below a quarter of N x N."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK_MEMORY], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 8192 * 8192
