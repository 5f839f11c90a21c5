"""What torch.autocast means to an op of ours."""

from __future__ import annotations

import torch
from torch import Tensor


def cast_under_autocast(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Casts float values to the dtype of the autocast region, if there is one.

    So does `scaled_dot_product_attention`. A float64 value stays what it is, as everywhere in
    torch.autocast.
    """
    device = q.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return q, k, v
    dtype = torch.get_autocast_dtype(device)
    return _cast(q, dtype), _cast(k, dtype), _cast(v, dtype)


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x
