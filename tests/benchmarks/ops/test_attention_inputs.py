"""What the attention benchmarks run on, and the work they count in it."""

from __future__ import annotations

import itertools

import pytest
import torch

from benchmarks.ops.attention_inputs import (
    NUM_HEADS,
    draw_biases,
    draw_inputs,
    draw_masks,
    idle,
    run,
    useful_flops,
)
from benchmarks.ops.attention_tables import FULL
from torchrec_gr.ops import KeySpans, num_visible_pairs
from torchrec_gr.sequences.visibility import causal

OFFSETS = torch.tensor([0, 0, 1, 4, 13, 13, 200])


def _counted(spans: KeySpans, offsets: torch.Tensor) -> int:
    """Pair by pair, as the definition of the spans says it."""
    pairs = 0
    for first, last in itertools.pairwise(offsets.tolist()):
        for query in range(first, last):
            own = query - first if spans.own is None else int(spans.own[query])
            start, end = int(spans.start[query]), int(spans.end[query])
            pairs += sum(start <= key < end or key == own for key in range(last - first))
    return pairs


@pytest.mark.parametrize(
    "spans",
    [
        pytest.param(spans, id=name)
        for name, spans in {"causal": causal(OFFSETS), **draw_masks(OFFSETS)}.items()
    ],
)
def test_visible_pairs_are_those_that_one_counts(spans: KeySpans) -> None:
    assert num_visible_pairs(spans, OFFSETS, OFFSETS) == _counted(spans, OFFSETS)


def test_visible_pairs_of_spans_that_lie_outside_the_row() -> None:
    offsets = torch.tensor([0, *[0, 1, 3, 12] * 20]).cumsum(0)
    lengths = offsets.diff().repeat_interleave(offsets.diff())
    draw = torch.Generator().manual_seed(0)
    start, end = (torch.randint(-5, 16, lengths.shape, generator=draw).int() for _ in range(2))
    own = (torch.rand(lengths.shape, generator=draw) * (lengths + 1)).int() - 1
    for spans in (KeySpans(start, end), KeySpans(start, end, own)):
        assert num_visible_pairs(spans, offsets, offsets) == _counted(spans, offsets)


def test_useful_flops_are_those_of_the_products_over_visible_pairs() -> None:
    """Forward q.k and weights.v; backward q.k again, and those behind dweights, dq, dk and dv."""
    inputs = draw_inputs(3, 9, 5, torch.float32)
    forward = backward = 0
    for length in inputs.offsets.diff().tolist():
        for query, _ in itertools.product(range(length), range(NUM_HEADS)):
            for _ in range(query + 1):
                multiply_adds = 5
                forward += 2 * (2 * multiply_adds)
                backward += 5 * (2 * multiply_adds)
    assert useful_flops(inputs, backward=False) == forward
    assert useful_flops(inputs, backward=True) == forward + backward


@pytest.mark.parametrize(("num_rows", "max_seq_len"), FULL.batches)
def test_lengths_are_typical(num_rows: int, max_seq_len: int) -> None:
    lengths = draw_inputs(num_rows, max_seq_len, 1, torch.float32).offsets.diff()
    assert 0.95 * max_seq_len <= lengths.max() <= max_seq_len
    mean_square = lengths.double().square().mean() / max_seq_len**2
    assert mean_square == pytest.approx(1 / 3, rel=0.1)


def test_masks_see_different_things() -> None:
    spans = [causal(OFFSETS), *draw_masks(OFFSETS).values()]
    assert len({(tuple(s.start.tolist()), tuple(s.end.tolist())) for s in spans}) == len(spans)


def test_biases_have_every_term_once_and_then_all() -> None:
    inputs = draw_inputs(3, 40, 4, torch.float32)
    biases = draw_biases(inputs)
    assert [
        (b.slopes is not None, b.position_table is not None, b.time_table is not None)
        for b in biases.values()
    ] == [(True, False, False), (False, True, False), (False, False, True), (True, True, True)]
    times = biases["all three"].k_times
    assert times is not None
    for first, last in itertools.pairwise(inputs.offsets.tolist()):
        assert (times[first:last].diff() >= 0).all()


def test_gradients_come_for_every_leaf_in_any_dtype() -> None:
    inputs = draw_inputs(2, 9, 4, torch.bfloat16).to(torch.float64)
    results = run(lambda x: x.q * x.k * x.v, inputs, backward=True)
    assert [r.dtype for r in results] == [torch.float64] * 4
    torch.testing.assert_close(results[1], inputs.grad_output * inputs.k * inputs.v)
    assert len(run(lambda x: x.q * x.k, inputs, backward=False)) == 1


def test_idle_inputs_have_the_same_rows_and_one_pair_a_token() -> None:
    inputs = draw_inputs(3, 20, 12, torch.float32)
    nothing = idle(inputs)
    num_tokens = len(inputs.q)
    assert nothing.q.shape == nothing.k.shape == nothing.v.shape == (num_tokens, 1, 8)
    assert torch.equal(nothing.offsets, inputs.offsets)
    assert num_visible_pairs(nothing.spans, nothing.offsets, nothing.offsets) == num_tokens
