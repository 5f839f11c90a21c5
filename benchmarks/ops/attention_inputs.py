"""What the attention benchmarks run on: random jagged rows, masks and biases over them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchrec_gr.ops import AttentionBias, KeySpans, num_visible_pairs
from torchrec_gr.sequences.visibility import causal, mtgr, ranking_targets

NUM_HEADS = 4

SEED = 28
"""The first whose lengths are typical at (B, N) = (32, 200), (8, 1024) and (4, 4096) alike: the
longest row within 5% of N, the mean squared length within 10% of N * N / 3."""

DRAWN = (
    f"{NUM_HEADS} heads; B row lengths drawn by torch.randint(1, N + 1, (B,)) with seed {SEED}; "
    "padded attention pads them to N"
)

_NUM_CONTEXTUAL, _WINDOW, _NUM_FULL = 8, 128, 64

_NUM_TIME_BUCKETS = 128
_MEDIAN_GAP_SECONDS, _GAP_SIGMA = 600.0, 2.5


@dataclasses.dataclass(frozen=True)
class AttentionInputs:
    """Self-attention over jagged rows.

    Args:
        q, k, v, grad_output: [T, H, D]; the first three take gradients.
        offsets: [B + 1] int64.
        spans: which keys each query sees.
        max_seq_len: N.
        bias: its tables take gradients.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    grad_output: Tensor
    offsets: Tensor
    spans: KeySpans
    max_seq_len: int
    bias: AttentionBias | None = None

    @property
    def leaves(self) -> list[Tensor]:
        """What gradients are taken of."""
        bias = self.bias or AttentionBias()
        tables = (bias.position_table, bias.time_table)
        return [self.q, self.k, self.v, *(table for table in tables if table is not None)]

    def to(self, dtype: torch.dtype) -> AttentionInputs:
        """The same numbers in another dtype."""

        def cast(x: Tensor) -> Tensor:
            return x.detach().to(dtype).requires_grad_()

        bias = self.bias
        if bias is not None:
            tables = {
                name: cast(table)
                for name in ("position_table", "time_table")
                if (table := getattr(bias, name)) is not None
            }
            bias = dataclasses.replace(bias, **tables)
        return dataclasses.replace(
            self,
            q=cast(self.q),
            k=cast(self.k),
            v=cast(self.v),
            grad_output=self.grad_output.to(dtype),
            bias=bias,
        )


Attend = Callable[[AttentionInputs], Tensor]


def over_spans(attention: Callable[..., Tensor]) -> Attend:
    """Calls an attention op, or its reference, on the inputs."""
    return lambda x: attention(
        x.q, x.k, x.v, x.offsets, x.offsets, x.spans, max_seq_len=x.max_seq_len, bias=x.bias
    )


def over_padding(attention: Callable[..., Tensor]) -> Attend:
    """Calls padded attention on inputs that are causal and have no bias."""
    return lambda x: attention(x.q, x.k, x.v, x.offsets, x.max_seq_len)


def run(attend: Attend, inputs: AttentionInputs, backward: bool) -> list[Tensor]:
    """The output and, with `backward`, the gradients of all leaves."""
    if not backward:
        with torch.no_grad():
            return [attend(inputs)]
    output = attend(inputs)
    return [output.detach(), *torch.autograd.grad(output, inputs.leaves, inputs.grad_output)]


def draw_inputs(num_rows: int, max_seq_len: int, width: int, dtype: torch.dtype) -> AttentionInputs:
    """Causal self-attention over rows of 1 to `max_seq_len` tokens, all lengths alike likely."""
    draw = torch.Generator().manual_seed(SEED)
    lengths = torch.randint(1, max_seq_len + 1, (num_rows,), generator=draw)
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    values = torch.randn(4, int(offsets[-1]), NUM_HEADS, width, generator=draw).to(dtype)
    q, k, v = (x.clone().requires_grad_() for x in values[:3])
    return AttentionInputs(q, k, v, values[3], offsets, causal(offsets), max_seq_len)


def draw_masks(offsets: Tensor) -> dict[str, KeySpans]:
    """Masks other than the causal one, by name, over the rows of `offsets`."""
    lengths = offsets.diff()
    num_history = lengths - lengths // 8
    num_contextual = num_history.clamp(max=_NUM_CONTEXTUAL)
    return {
        "ranking targets, 1/8 of the row": ranking_targets(offsets, num_history),
        f"window {_WINDOW}": ranking_targets(offsets, lengths, window=_WINDOW),
        f"{_NUM_CONTEXTUAL} contextual, last {_NUM_FULL} full": ranking_targets(
            offsets,
            num_history - num_contextual,
            num_contextual=num_contextual,
            window=_WINDOW,
            num_full=_NUM_FULL,
        ),
        "MTGR, 1/2 static, 1/4 candidates": _mtgr(offsets),
    }


def draw_biases(inputs: AttentionInputs) -> dict[str, AttentionBias]:
    """Each term of a bias by itself, and all together, by name.

    Slopes are ALiBi's. Events are in order, the gaps between them log-normal: minutes within a
    session, hours and weeks between sessions.
    """
    draw = torch.Generator().manual_seed(SEED)
    gaps = torch.randn(len(inputs.k), generator=draw, dtype=torch.float64)
    seconds = (math.log(_MEDIAN_GAP_SECONDS) + _GAP_SIGMA * gaps).exp()

    def table(num_entries: int) -> Tensor:
        return torch.randn(NUM_HEADS, num_entries, generator=draw).requires_grad_()

    everything = AttentionBias(
        slopes=2.0 ** (-8 / NUM_HEADS * torch.arange(1, NUM_HEADS + 1)),
        position_table=table(2 * inputs.max_seq_len - 1),
        time_table=table(_NUM_TIME_BUCKETS),
        k_times=seconds.cumsum(0).long(),
    )
    return {
        "slopes": AttentionBias(slopes=everything.slopes),
        "position table": AttentionBias(position_table=everything.position_table),
        "time table": AttentionBias(time_table=everything.time_table, k_times=everything.k_times),
        "all three": everything,
    }


def idle(inputs: AttentionInputs) -> AttentionInputs:
    """The same rows with one head of width 8 at most, every query seeing itself alone."""
    q, k, v, grad_output = (
        x.detach()[:, :1, :8].contiguous()
        for x in (inputs.q, inputs.k, inputs.v, inputs.grad_output)
    )
    nothing = torch.zeros_like(inputs.spans.start)
    return dataclasses.replace(
        inputs, q=q, k=k, v=v, grad_output=grad_output, spans=KeySpans(nothing, nothing)
    )


def useful_flops(inputs: AttentionInputs, backward: bool) -> int:
    """Those of visible pairs alone: two products forward, and backward five, q.k being anew."""
    products = 2 + 5 if backward else 2
    width = inputs.q.shape[2]
    return (
        products
        * 2
        * width
        * NUM_HEADS
        * num_visible_pairs(inputs.spans, inputs.offsets, inputs.offsets)
    )


def _mtgr(offsets: Tensor) -> KeySpans:
    """A real-time token happens at the moment of its place; candidates are shown in between."""
    lengths = offsets.diff()
    num_static, num_candidates = lengths // 2, lengths // 4
    num_real_time = lengths - num_static - num_candidates
    static, real_time = (x.repeat_interleave(lengths) for x in (num_static, num_real_time))
    places = torch.arange(len(static)) - offsets[:-1].repeat_interleave(lengths)
    draw = torch.Generator().manual_seed(SEED)
    shown = static + (torch.rand(len(static), generator=draw) * (real_time + 1)).long()
    times = torch.where(places < static + real_time, places, shown)
    return mtgr(offsets, num_static, num_real_time, times)
