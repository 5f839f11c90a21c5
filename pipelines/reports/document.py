"""A document of a few kinds of blocks, rendered as Markdown; `page` renders it as HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

EMPTY = "-"
"""What a table shows where it has nothing to show."""


class Heading(NamedTuple):
    """A section's title; level 1 is the document's."""

    level: int
    text: str


class Paragraph(NamedTuple):
    """Plain text."""

    text: str


class Bullets(NamedTuple):
    """A list of plain texts."""

    items: Sequence[str]


class NamedBullets(NamedTuple):
    """A list of texts that each begin with the name of what they speak of."""

    items: Sequence[tuple[str, str]]


class Code(NamedTuple):
    """Text to be copied as it is."""

    text: str


class Table(NamedTuple):
    """Column titles and rows of text; `left` columns hold words, the others numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


class Figure(NamedTuple):
    """An SVG image, the name of its file, and what it shows."""

    name: str
    svg: str
    caption: str


class Folded(NamedTuple):
    """A long table under its title, which a page shows once it is asked for."""

    title: str
    table: Table


Block: TypeAlias = Folded | Heading | Paragraph | Bullets | NamedBullets | Code | Table | Figure


def without_empty_columns(table: Table) -> Table:
    """The table less the columns that have nothing to show in any row."""
    kept = [
        column
        for column in range(len(table.columns))
        if any(row[column] != EMPTY for row in table.rows)
    ]
    return Table(
        [table.columns[column] for column in kept],
        [[row[column] for column in kept] for row in table.rows],
        sum(column < table.left for column in kept),
    )


def to_markdown(blocks: Sequence[Block], figures: str = "plots") -> str:
    """The document as Markdown; a figure is a link to `<figures>/<name>.svg`."""
    return "\n\n".join(_markdown(block, figures) for block in blocks) + "\n"


def _markdown(block: Block, figures: str) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {_plain(text)}"
        case Paragraph(text):
            return _plain(text)
        case Bullets(items):
            return "\n".join(f"- {_plain(item)}" for item in items)
        case NamedBullets(items):
            return "\n".join(f"- **{_plain(name)}** {_plain(text)}" for name, text in items)
        case Code(text):
            return f"```\n{text}\n```"
        case Table(columns, rows, left):
            rules = [":--" if column < left else "--:" for column in range(len(columns))]
            lines = [[_plain(cell) for cell in row] for row in (columns, *rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rules, *lines[1:]))
        case Folded(title, table):
            return f"### {_plain(title)}\n\n{_markdown(table, figures)}"
        case Figure(name, _, caption):
            return f"![{_plain(caption)}]({figures}/{name}.svg)"


def _plain(text: str) -> str:
    """Text in which Markdown sees no markup."""
    return re.sub(r"([\\`*<|]|(?<=\])\()", r"\\\1", " ".join(text.split()))
