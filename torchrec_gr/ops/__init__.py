"""Attention over jagged rows: tensors in, tensors out."""

from torchrec_gr.ops.attention_bias import AttentionBias
from torchrec_gr.ops.attention_spans import KeySpans
from torchrec_gr.ops.hstu_attention import hstu_attention
from torchrec_gr.ops.jagged_softmax_attention import jagged_softmax_attention

__all__ = ["AttentionBias", "KeySpans", "hstu_attention", "jagged_softmax_attention"]
