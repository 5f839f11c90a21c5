"""Ops on jagged rows, tensors in and tensors out; compiled, from csrc/."""

import importlib

import torch  # noqa: F401  # the compiled ops link to its libraries

try:
    importlib.import_module("torchrec_gr._C")
except ImportError as error:
    raise ImportError(
        f"torchrec_gr: its compiled ops do not load ({error}). Build them, in the folder that has "
        "setup.py: pip install --no-deps --no-build-isolation -e ."
    ) from error

from torchrec_gr.ops.attention_bias import AttentionBias
from torchrec_gr.ops.attention_spans import KeySpans
from torchrec_gr.ops.cpu_capability import cpu_capability
from torchrec_gr.ops.group_requests import group_requests
from torchrec_gr.ops.hstu_attention import hstu_attention
from torchrec_gr.ops.jagged_concat import jagged_concat, jagged_split
from torchrec_gr.ops.jagged_softmax_attention import jagged_softmax_attention

__all__ = [
    "AttentionBias",
    "KeySpans",
    "cpu_capability",
    "group_requests",
    "hstu_attention",
    "jagged_concat",
    "jagged_softmax_attention",
    "jagged_split",
]
