"""Docstrings of torchrec_gr as the site shows them: what is plain text to us is not to Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

_SOURCE = re.compile(r"^Source: (.+(?:\n +.+)*)", re.MULTILINE)
_POWER = re.compile(r"(?<=\w)\*\*(?=\w)")
_CODE = re.compile(r"(`[^`]*`)")


class PlainText(griffe.Extension):
    """Shows sources as paragraphs, and powers such as 2**30 as they stand."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """What Griffe calls with every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = shown(obj.docstring.value)


def shown(docstring: str) -> str:
    """The Markdown of a docstring."""
    text = _SOURCE.sub(lambda found: f"**Source:** {' '.join(found[1].split())}", docstring)
    parts = _CODE.split(text)
    parts[::2] = [_POWER.sub(r"\\*\\*", part) for part in parts[::2]]
    return "".join(parts)
