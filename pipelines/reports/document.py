"""A document of a few kinds of blocks, rendered as Markdown or as one self-contained HTML page."""

from __future__ import annotations

import html
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


Block: TypeAlias = Heading | Paragraph | Bullets | Code | Table | Figure


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


def to_html(blocks: Sequence[Block]) -> str:
    """The document as one HTML page that fetches nothing: styles and figures are inside."""
    title = next((b.text for b in blocks if isinstance(b, Heading) and b.level == 1), "Report")
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _markdown(block: Block, figures: str) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {_plain(text)}"
        case Paragraph(text):
            return _plain(text)
        case Bullets(items):
            return "\n".join(f"- {_plain(item)}" for item in items)
        case Code(text):
            return f"```\n{text}\n```"
        case Table(columns, rows, left):
            rules = [":--" if column < left else "--:" for column in range(len(columns))]
            lines = [[_plain(cell) for cell in row] for row in (columns, *rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rules, *lines[1:]))
        case Figure(name, _, caption):
            return f"![{_plain(caption)}]({figures}/{name}.svg)"


def _plain(text: str) -> str:
    """Text in which Markdown sees no markup."""
    return re.sub(r"([\\`*<|]|(?<=\])\()", r"\\\1", " ".join(text.split()))


def _html(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"
        case Code(text):
            return f"<pre>{html.escape(text)}</pre>"
        case Table(columns, rows, left):
            head = _html_row("th", columns, left)
            body = "\n".join(_html_row("td", row, left) for row in rows)
            return (
                f'<div class="scroll"><table>\n<thead>{head}</thead>\n'
                f"<tbody>\n{body}\n</tbody>\n</table></div>"
            )
        case Figure(name, svg, caption):
            return (
                f"<figure>\n{_inline_svg(name, svg)}\n"
                f"<figcaption>{html.escape(caption)}</figcaption>\n</figure>"
            )


def _html_row(tag: str, cells: Sequence[str], left: int) -> str:
    opening = [f'<{tag} class="word">' if i < left else f"<{tag}>" for i in range(len(cells))]
    row = (f"{start}{html.escape(c)}</{tag}>" for start, c in zip(opening, cells, strict=True))
    return f"<tr>{''.join(row)}</tr>"


def _inline_svg(name: str, svg: str) -> str:
    """The svg element alone, sized by the page, its ids made the figure's own."""
    element = svg[svg.index("<svg") :].strip()
    opening, rest = element.split(">", 1)
    opening = re.sub(r'\s(?:width|height)="[^"]*"', "", opening)
    element = f'{opening} role="img">{rest}'
    element = re.sub(r'\bid="', f'id="{name}-', element)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", element)


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 2.5rem; }
p, li { max-width: 46rem; }
pre { background: #f4f4f4; padding: .75rem; overflow-x: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #ddd; }
th { border-bottom: 2px solid #888; vertical-align: bottom; }
.word { text-align: left; }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; }
figure { display: inline-block; width: 100%; max-width: 36rem; margin: 1rem 1rem 1rem 0;
  vertical-align: top; }
figure svg { width: 100%; height: auto; }
figcaption { font-size: .9rem; color: #444; }
"""
