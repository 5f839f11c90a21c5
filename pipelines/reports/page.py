"""A document as one HTML page that fetches nothing: styles, figures and the script are inside."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

from pipelines.reports.document import (
    Block,
    Bullets,
    Code,
    Figure,
    Folded,
    Heading,
    NamedBullets,
    Paragraph,
    Table,
)

_MARKED = ("better", "worse")
"""Cells that the page's style tells from the others."""

_WIDE = 40
"""Letters from which on words in a cell may be broken into lines."""


def to_html(blocks: Sequence[Block]) -> str:
    """The document as one page; a tap on a column's head sorts the table."""
    title = next((b.text for b in blocks if isinstance(b, Heading) and b.level == 1), "Report")
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_beside('page.css')}</style>\n</head>\n"
        f"<body>\n{body}\n<script>\n{_beside('sorting.js')}</script>\n</body>\n</html>\n"
    )


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _html(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"
        case NamedBullets(items):
            lines = (
                f"<li><strong>{html.escape(name)}</strong> {html.escape(text)}</li>"
                for name, text in items
            )
            return f"<ul>{''.join(lines)}</ul>"
        case Code(text):
            return f"<pre>{html.escape(text)}</pre>"
        case Table(columns, rows, left):
            head = "".join(_cell("th", title, i < left) for i, title in enumerate(columns))
            body = "\n".join(
                f"<tr>{''.join(_cell('td', cell, i < left) for i, cell in enumerate(row))}</tr>"
                for row in rows
            )
            return (
                f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
                f"<tbody>\n{body}\n</tbody>\n</table></div>"
            )
        case Folded(title, table):
            return (
                f"<details><summary>{html.escape(title)} ({len(table.rows)})</summary>\n"
                f"{_html(table)}\n</details>"
            )
        case Figure(name, svg, caption):
            return (
                f"<figure>\n{_inline_svg(name, svg)}\n"
                f"<figcaption>{html.escape(caption)}</figcaption>\n</figure>"
            )


def _cell(tag: str, text: str, is_word: bool) -> str:
    classes = ["word"] if is_word else []
    if tag == "td":
        classes += [text] if text in _MARKED else []
        classes += ["wide"] if is_word and len(text) > _WIDE else []
    attribute = f' class="{" ".join(classes)}"' if classes else ""
    return f"<{tag}{attribute}>{html.escape(text)}</{tag}>"


def _inline_svg(name: str, svg: str) -> str:
    """The svg element alone, sized by the page, its ids made the figure's own."""
    element = svg[svg.index("<svg") :].strip()
    opening, rest = element.split(">", 1)
    opening = re.sub(r'\s(?:width|height)="[^"]*"', "", opening)
    element = f'{opening} role="img">{rest}'
    element = re.sub(r'\bid="', f'id="{name}-', element)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", element)
