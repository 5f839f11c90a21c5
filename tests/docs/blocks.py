"""The fenced blocks of a Markdown page, and what hidden comments say of each.

A comment right before a block is for the tests, and no reader sees it:

    <!-- setup: ... -->     Python that runs before the block: what a reader brings
    <!-- needs: runs/x -->  a folder that another page's commands make
    <!-- slow -->           the block runs with the slow tests alone
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

_COMMENT = r"<!--(?:(?!-->).)*-->\n"
_BLOCK = re.compile(
    rf"^(?P<comments>(?:{_COMMENT})*)```(?P<language>\S*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclasses.dataclass(frozen=True)
class Block:
    """One fenced block.

    Args:
        page: where it stands.
        line: of its first line.
        language: what its fence says.
        text: what it holds.
        setup: Python to run before it.
        needs: folders that must be there.
        slow: whether it is left to the slow tests.
    """

    page: Path
    line: int
    language: str
    text: str
    setup: str = ""
    needs: tuple[str, ...] = ()
    slow: bool = False

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file_name(self) -> str | None:
        """The file that its first line, a comment, says it is."""
        named = re.match(r"# (\w+\.(?:yaml|py))\n", self.text)
        return named[1] if named else None


def read_blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [_block(page, text, found) for found in _BLOCK.finditer(text)]


def _block(page: Path, text: str, found: re.Match[str]) -> Block:
    comments = found["comments"]
    setup = re.findall(r"<!-- setup:\n(.*?)-->", comments, re.DOTALL)
    return Block(
        page=page,
        line=text.count("\n", 0, found.start("text")) + 1,
        language=found["language"],
        text=found["text"],
        setup=textwrap.dedent("".join(setup)),
        needs=tuple(re.findall(r"<!-- needs: (\S+) -->", comments)),
        slow="<!-- slow -->" in comments,
    )
