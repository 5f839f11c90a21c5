"""A pass over rows [context ; candidates] in two halves, the first of which can be kept."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.context_cache import ContextCache
from torchrec_gr.modules.sequence_layer import SequenceLayer
from torchrec_gr.ops.jagged_concat import jagged_concat


def encode_context(
    layers: Sequence[SequenceLayer], x: Tensor, rows: AttentionRows
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The keys and values of every layer; the last computes nothing else.

    Args:
        layers: one at least.
        x: [T, D], the tokens of the contexts.
        rows: of all of them, each of which is asked for.

    Returns:
        Keys [T, H, A] of each layer, and values [T, H, V].
    """
    *earlier, last = layers
    kept = []
    for layer in earlier:
        projected = layer.project(x)
        kept.append((projected.keys, projected.values))
        x = layer.attend(x, projected, rows)
    kept.append(last.keys_values(x))
    # Copied out of their projection, which would be kept whole with them.
    keys, values = zip(*((k.contiguous(), v.contiguous()) for k, v in kept), strict=True)
    return keys, values


def cross_context(
    layers: Sequence[SequenceLayer],
    x: Tensor,
    context: ContextCache,
    rows: AttentionRows,
) -> Tensor:
    """What a pass over rows [context ; candidates] gives for the candidates: [C, D].

    Args:
        layers: those that encoded the context.
        x: [C, D], the candidates, request after request.
        context: of U requests.
        rows: of contexts and candidates, of which the candidates are asked for.
    """
    for layer, keys, values in zip(layers, context.keys, context.values, strict=True):
        own = layer.project(x)
        keys = jagged_concat(keys, own.keys, context.offsets, rows.q_offsets)
        values = jagged_concat(values, own.values, context.offsets, rows.q_offsets)
        x = layer.attend(x, own._replace(keys=keys, values=values), rows)
    return x
