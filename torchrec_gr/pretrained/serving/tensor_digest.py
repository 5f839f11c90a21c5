"""One checksum of facts and tensors, wherever they are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def tensor_digest(facts: Any, tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256, in hexadecimal, of plain values and of names, dtypes, shapes and values of tensors.

    Args:
        facts: what JSON holds.
        tensors: in an order that is always the same.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in tensors:
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        values = tensor.detach().cpu().contiguous().flatten()
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()
