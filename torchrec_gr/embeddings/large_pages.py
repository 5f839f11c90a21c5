"""Memory on large pages: rows that are read here and there miss the page tables less."""

from __future__ import annotations

import math
import mmap

import torch
from torch import Tensor

_LARGE_PAGE = 2 << 20


def zeros_on_large_pages(*shape: int) -> Tensor:
    """float32 zeros, taken from the system as they are touched; large ones on large pages.

    Where the system offers none, or for less than a page, they are zeros like any others.
    """
    num = math.prod(shape)
    num_bytes = num * torch.float32.itemsize
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None or num_bytes < _LARGE_PAGE:
        return torch.zeros(shape)
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(advice)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)
