"""What the ops with products cost, for `torch.utils.flop_counter`: importing the ops registers it.

Like PyTorch's own formulas these count products alone, a multiplication and an addition as two. A
pair of a query and a key that it sees costs one step of each product, so the values of spans and
offsets decide; biases, activations and the rows that a kernel computes in vain are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import register_flop_formula

from torchrec_gr.ops.attention_spans import KeySpans

_MAX_SEQ_LEN = 15
"""The place of `max_seq_len` among an attention op's arguments."""


def num_visible_pairs(spans: KeySpans, q_offsets: Tensor, k_offsets: Tensor) -> int:
    """How many pairs there are of a query and a key that it sees, the own key counted once.

    Args:
        spans: of Tq queries.
        q_offsets: [B + 1] int32 or int64, where each row of queries begins; the last is Tq.
        k_offsets: [B + 1] int32 or int64, where each row of keys begins.
    """
    return int(spans.num_visible(q_offsets, k_offsets).sum())


@register_flop_formula(
    [torch.ops.torchrec_gr.hstu_attention, torch.ops.torchrec_gr.jagged_softmax_attention],
    get_raw=True,
)
def attention_flops(*arguments: Any, **_: Any) -> int:
    """Of a forward: q.k, and the weights times v.

    Args:
        arguments: the op's. Of a tracer's tensors, which have no values, every query is taken to
            see `max_seq_len` keys.
    """
    (_, num_heads, qk_dim), v_dim = arguments[0].shape, arguments[2].shape[2]
    return 2 * _num_pairs(arguments) * num_heads * (qk_dim + v_dim)


@register_flop_formula(torch.ops.torchrec_gr.hstu_attention_backward, get_raw=True)
def hstu_attention_backward_flops(grad: Tensor, *arguments: Any, **_: Any) -> int:
    """Of a backward: q.k once more, and those behind the gradients of the weights, q, k and v.

    On a GPU, where dq has a kernel of its own, the first two are computed twice and counted once.
    """
    (_, num_heads, qk_dim), v_dim = arguments[0].shape, arguments[2].shape[2]
    return 2 * _num_pairs(arguments) * num_heads * (3 * qk_dim + 2 * v_dim)


@register_flop_formula(torch.ops.torchrec_gr.jagged_softmax_attention_backward, get_raw=True)
def jagged_softmax_attention_backward_flops(
    grad: Tensor, output: Tensor, log_sum_exp: Tensor, *arguments: Any, **_: Any
) -> int:
    """Of a backward: as of `hstu_attention_backward`."""
    return hstu_attention_backward_flops(grad, *arguments)


@register_flop_formula(torch.ops.torchrec_gr.indexed_products, get_raw=True)
def indexed_products_flops(left: Tensor, rows: Tensor, index: Tensor, **_: Any) -> int:
    """Of a forward: a product of each vector with each row that it names."""
    return 2 * index.numel() * left.shape[1]


@register_flop_formula(torch.ops.torchrec_gr.indexed_products_backward, get_raw=True)
def indexed_products_backward_flops(grad: Tensor, *arguments: Any, **_: Any) -> int:
    """Of a backward: as many for the gradient of the vectors, and of the rows."""
    return 2 * indexed_products_flops(*arguments)


def _num_pairs(arguments: Sequence[Any]) -> int:
    q_offsets, k_offsets, start, end, own = arguments[3:8]
    if isinstance(start, FakeTensor) or start.is_meta:
        return start.shape[0] * int(arguments[_MAX_SEQ_LEN])
    return num_visible_pairs(KeySpans(start, end, own), q_offsets, k_offsets)
