"""Pages of the site that show a file of the repository's root: the first page and the changelog."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}
"""Page in docs/ -> the file that it shows."""


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """What MkDocs calls with a page's text before it renders it."""
    file = FILES.get(page.file.src_uri)
    if file is None:
        return markdown
    text = (ROOT / file).read_text(encoding="utf-8")
    return re.sub(r"\]\(docs/", "](", text)  # links of the root, seen from docs/
