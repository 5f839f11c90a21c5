"""Equations of the site: fenced ```math blocks, in LaTeX, become MathML when the site is built.

GitHub shows the same blocks, and a browser shows MathML without a script or a font of ours.
"""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert

_BLOCK = re.compile(r"^```math\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What MkDocs calls with a page's text before it renders it."""
    return _BLOCK.sub(lambda block: _rendered(block[1]), markdown)


def _rendered(latex: str) -> str:
    # A blank line would end the HTML block that Markdown leaves as it is.
    return f'<div class="equation">{convert(" ".join(latex.split()), display="block")}</div>'
