"""Blocks as Markdown."""

from __future__ import annotations

from pipelines.reports.document import (
    EMPTY,
    Bullets,
    Code,
    Figure,
    Heading,
    NamedBullets,
    Paragraph,
    Table,
    to_markdown,
    without_empty_columns,
)

SVG = (
    '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg width="3pt" height="2pt" viewBox="0 0 3 2">'
    '<defs><path id="a"/></defs><use xlink:href="#a"/><g clip-path="url(#a)" stroke-width="1"/>'
    "</svg>\n"
)


def test_markdown_shows_text_as_it_is() -> None:
    document = [
        Heading(2, "A*b"),
        Paragraph("x < y | z\nnext `code`"),
        Bullets(["[one](two)"]),
        NamedBullets([("a*b", "is c")]),
        Code("a | b"),
        Table(["name", "n"], [["p|q", "1"]]),
        Figure("plot", SVG, "what it shows"),
    ]
    assert to_markdown(document) == (
        "## A\\*b\n\nx \\< y \\| z next \\`code\\`\n\n- [one]\\(two)\n\n- **a\\*b** is c\n\n"
        "```\na | b\n```\n\n"
        "| name | n |\n| :-- | --: |\n| p\\|q | 1 |\n\n![what it shows](plots/plot.svg)\n"
    )


def test_columns_without_anything_are_left_out() -> None:
    table = Table(["a", "b", "c"], [["1", EMPTY, EMPTY], ["2", EMPTY, "3"]], left=2)
    assert without_empty_columns(table) == Table(["a", "c"], [["1", EMPTY], ["2", "3"]], left=1)
