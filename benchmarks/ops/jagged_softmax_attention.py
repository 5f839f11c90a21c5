"""How fast jagged_softmax_attention is: against padded attention, and against the machine.

python -m benchmarks.ops.jagged_softmax_attention
"""

from __future__ import annotations

from benchmarks.ops.attention_inputs import over_padding, over_spans
from benchmarks.ops.attention_tables import Contestant, Op, benchmark
from benchmarks.ops.padded_attention import padded_sdpa, padded_softmax_attention
from torchrec_gr.ops import jagged_softmax_attention
from torchrec_gr.ops.jagged_softmax_attention_reference import jagged_softmax_attention_reference

OP = Op(
    "jagged_softmax_attention",
    over_spans(jagged_softmax_attention),
    over_spans(jagged_softmax_attention_reference),
    (
        Contestant("padded SDPA", over_padding(padded_sdpa)),
        Contestant("padded PyTorch", over_padding(padded_softmax_attention)),
    ),
)

if __name__ == "__main__":
    benchmark(OP, "benchmarks.ops.jagged_softmax_attention", __doc__)
