"""Contexts in 4, 2 or 1 bytes a number, all layers in one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from torchrec_gr.modules.context_cache import ContextCache

ContextDtype = Literal["fp32", "bf16", "int8"]

_FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
_LARGEST = 127  # symmetric: -128 is not used


def pack_contexts(contexts: ContextCache, dtype: ContextDtype) -> dict[str, Tensor]:
    """Keys and values with the tokens on the second axis, in a dtype.

    In int8 each token and head has a scale of its own, max |x| / 127 in float32: no number is
    further off than half of it.

    Args:
        contexts: whose layers are alike.

    Returns:
        `keys` [L, T, H, A] and `values` [L, T, H, V]; in int8 with them `keys_scale` and
        `values_scale` [L, T, H, 1] float32. Nothing where the contexts have no layers.

    Raises:
        ValueError: numbers that int8 cannot hold, since they are not finite.
    """
    packed: dict[str, Tensor] = {}
    for name, layers in (("keys", contexts.keys), ("values", contexts.values)):
        if not layers:
            continue
        numbers = torch.stack(layers).float()
        if dtype != "int8":
            packed[name] = numbers.to(_FLOATS[dtype])
            continue
        scale = numbers.abs().amax(dim=-1, keepdim=True) / _LARGEST
        if not scale.isfinite().all():
            raise ValueError(
                f"{name} of contexts are not finite, which int8 cannot hold: find out what the "
                "encoder was given, or which of its weights are not finite"
            )
        smallest = torch.finfo(torch.float32).tiny
        packed[name] = (numbers / scale.clamp(min=smallest)).round().to(torch.int8)
        packed[f"{name}_scale"] = scale
    return packed


def unpack_layers(packed: Mapping[str, Tensor], name: str) -> tuple[Tensor, ...]:
    """`keys` or `values` of what `pack_contexts` gave: [T, H, A or V] float32, one a layer."""
    if name not in packed:
        return ()
    numbers, scale = packed[name].float(), packed.get(f"{name}_scale")
    return (numbers if scale is None else numbers * scale).unbind(0)
