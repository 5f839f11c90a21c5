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
from torchrec_gr.ops.flop_formulas import num_visible_pairs
from torchrec_gr.ops.group_requests import group_requests
from torchrec_gr.ops.hstu_attention import hstu_attention
from torchrec_gr.ops.id_map import id_map_find, id_map_grow, id_map_insert_, id_map_remove_
from torchrec_gr.ops.indexed_products import indexed_products
from torchrec_gr.ops.jagged_concat import jagged_concat, jagged_split
from torchrec_gr.ops.jagged_softmax_attention import jagged_softmax_attention
from torchrec_gr.ops.pool_rows import pool_rows, sum_rows
from torchrec_gr.ops.route_ids import route_ids
from torchrec_gr.ops.seen_rows import rows_to_evict, touch_rows_
from torchrec_gr.ops.table_rows import gather_rows, init_rows_, update_rows_
from torchrec_gr.ops.unique_ids import unique_ids

__all__ = [
    "AttentionBias",
    "KeySpans",
    "cpu_capability",
    "gather_rows",
    "group_requests",
    "hstu_attention",
    "id_map_find",
    "id_map_grow",
    "id_map_insert_",
    "id_map_remove_",
    "indexed_products",
    "init_rows_",
    "jagged_concat",
    "jagged_softmax_attention",
    "jagged_split",
    "num_visible_pairs",
    "pool_rows",
    "route_ids",
    "rows_to_evict",
    "sum_rows",
    "touch_rows_",
    "unique_ids",
    "update_rows_",
]
