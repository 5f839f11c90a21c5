"""What the flop counter finds in the attention ops, against a count pair by pair."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from tests.ops.attention_cases import (
    MAX_SEQ_LEN,
    Attention,
    AttentionCase,
    both_dtypes,
    both_ops,
    make_case,
    over_cases,
    visible_by_definition,
)
from torchrec_gr.ops import KeySpans, hstu_attention, num_visible_pairs
from torchrec_gr.ops.indexed_products import indexed_products


def dense_count(case: AttentionCase) -> tuple[int, int]:
    """Forward and backward: a multiplication and an addition, product by product, pair by pair."""
    (_, num_heads, qk_dim), v_dim = case.q.shape, case.v.shape[2]
    forward = backward = 0
    for row in range(len(case.q_offsets) - 1):
        for seen in itertools.chain.from_iterable(visible_by_definition(case, row)):
            for _ in range(num_heads * seen):
                forward += 2 * qk_dim  # score = q.k
                forward += 2 * v_dim  # output += weight * v
                backward += 2 * qk_dim  # score, again
                backward += 2 * v_dim  # grad.v
                backward += 2 * qk_dim  # dq += d_score * k
                backward += 2 * qk_dim  # dk += d_score * q
                backward += 2 * v_dim  # dv += weight * grad
    return forward, backward


def counted(attend: Attention, case: AttentionCase) -> tuple[int, int]:
    with FlopCounterMode(display=False) as of_forward:
        output = case.attend(attend)
    with FlopCounterMode(display=False) as of_backward:
        output.backward(torch.ones_like(output))
    return of_forward.get_total_flops(), of_backward.get_total_flops()


@both_ops
@over_cases
def test_every_visible_pair_is_counted_once(attend: Attention, case: AttentionCase) -> None:
    assert counted(attend, case) == dense_count(case)


@both_ops
@both_dtypes
def test_any_widths_and_dtype(attend: Attention, dtype: torch.dtype) -> None:
    case = make_case([5, 0, 9], [9, 2, 9], own="given", dims=(8, 24), dtype=dtype)
    assert counted(attend, case) == dense_count(case)


def test_the_own_key_counts_once_inside_the_span_and_beside_it() -> None:
    offsets = torch.tensor([0, 4])
    nobody = [-1] * 4
    for start, end, own, expected in (
        ([0] * 4, [0] * 4, range(4), 4),
        ([0] * 4, [4] * 4, range(4), 16),
        ([0] * 4, [0, 1, 2, 3], range(4), 10),
        ([-3] * 4, [9] * 4, nobody, 16),
        ([2] * 4, [1] * 4, nobody, 0),
        ([0] * 4, [2] * 4, [0, 1, 2, -1], 9),
    ):
        spans = KeySpans(*(torch.tensor(x, dtype=torch.int32) for x in (start, end, own)))
        assert num_visible_pairs(spans, offsets, offsets) == expected
    spans = KeySpans(*(torch.tensor(x, dtype=torch.int32) for x in ([0] * 4, range(4))))
    assert num_visible_pairs(spans, offsets, offsets) == 10  # own left out: the trailing places


def test_no_gradient_that_is_not_asked_for_is_counted() -> None:
    case = make_case([3], [3])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        case.attend(hstu_attention)
    assert counter.get_total_flops() == dense_count(case)[0]


@both_ops
def test_a_tracer_without_values_takes_every_query_to_see_all_there_may_be(
    attend: Attention,
) -> None:
    case = make_case([3, 2], [5, 2])
    fake = FakeTensorMode()
    q, k, v, q_offsets, k_offsets = (fake.from_tensor(x.detach()) for x in case.positional()[:5])
    spans = KeySpans(fake.from_tensor(case.spans.start), fake.from_tensor(case.spans.end))
    with fake, FlopCounterMode(display=False) as counter:
        attend(q, k, v, q_offsets, k_offsets, spans, max_seq_len=MAX_SEQ_LEN)
    (num_queries, num_heads, qk_dim), v_dim = case.q.shape, case.v.shape[2]
    expected = 2 * num_queries * MAX_SEQ_LEN * num_heads * (qk_dim + v_dim)
    assert counter.get_total_flops() == expected


def test_a_lookup_counts_nothing_and_the_layer_behind_it_what_it_costs() -> None:
    config = EmbeddingConfig(name="t", embedding_dim=4, num_embeddings=8, feature_names=["f"])
    tables = EmbeddingCollection(tables=[config])
    linear = nn.Linear(4, 5)
    kjt = KeyedJaggedTensor(["f"], torch.tensor([1, 2, 7]), lengths=torch.tensor([2, 1]))
    with FlopCounterMode(display=False) as counter:
        values: Tensor = tables(kjt)["f"].values()
        assert counter.get_total_flops() == 0
        linear(values)
    assert counter.get_total_flops() == 2 * 3 * 4 * 5


def test_importing_the_ops_registers_the_formulas() -> None:
    program = (
        "import torch, torchrec_gr.ops\n"
        "from torch.utils.flop_counter import flop_registry\n"
        "ops = torch.ops.torchrec_gr\n"
        "assert {ops.hstu_attention, ops.hstu_attention_backward, ops.jagged_softmax_attention,\n"
        "        ops.jagged_softmax_attention_backward} <= set(flop_registry)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_indexed_products_count_each_product_and_twice_as_many_backward() -> None:
    left = torch.randn(5, 8, requires_grad=True)
    rows = torch.randn(7, 8, requires_grad=True)
    index = torch.randint(0, 7, (5, 3))
    with FlopCounterMode(display=False) as of_forward:
        output = indexed_products(left, rows, index)
    with FlopCounterMode(display=False) as of_backward:
        output.sum().backward()
    assert of_forward.get_total_flops() == 5 * 3 * 2 * 8
    assert of_backward.get_total_flops() == 2 * 5 * 3 * 2 * 8
