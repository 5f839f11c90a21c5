"""How fast hstu_attention is: against what people write in PyTorch, and against the machine.

    python -m benchmarks.ops.hstu_attention

Padded scaled_dot_product_attention is there for scale: it computes softmax, not SiLU.
"""

from __future__ import annotations

from benchmarks.ops.attention_inputs import over_padding, over_spans
from benchmarks.ops.attention_tables import Contestant, Op, benchmark
from benchmarks.ops.padded_attention import padded_hstu_attention, padded_sdpa
from torchrec_gr.ops import hstu_attention
from torchrec_gr.ops.hstu_attention_reference import hstu_attention_reference

OP = Op(
    "hstu_attention",
    over_spans(hstu_attention),
    over_spans(hstu_attention_reference),
    (
        Contestant("padded PyTorch", over_padding(padded_hstu_attention)),
        Contestant("padded SDPA", over_padding(padded_sdpa), same_function=False),
    ),
)

if __name__ == "__main__":
    benchmark(OP, "benchmarks.ops.hstu_attention", __doc__)
