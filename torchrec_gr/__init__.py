"""Generative user-sequence models for click-through-rate ranking, as a TorchRec extension."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchrec_gr.pretrained.attaching.attach import attach_pretrained
    from torchrec_gr.pretrained.attaching.attached_names import attachment
    from torchrec_gr.pretrained.attaching.detach import detach_pretrained

__version__ = "0.1.0"

__all__ = ["attach_pretrained", "attachment", "detach_pretrained"]

_MODULES = {
    "attach_pretrained": "torchrec_gr.pretrained.attaching.attach",
    "attachment": "torchrec_gr.pretrained.attaching.attached_names",
    "detach_pretrained": "torchrec_gr.pretrained.attaching.detach",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for, and TorchRec with it, only then."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
