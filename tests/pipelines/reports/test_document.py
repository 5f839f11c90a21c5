"""Blocks as Markdown and as well-formed, self-contained HTML."""

from __future__ import annotations

from pipelines.reports.document import (
    EMPTY,
    Bullets,
    Code,
    Figure,
    Heading,
    Paragraph,
    Table,
    to_html,
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
        Code("a | b"),
        Table(["name", "n"], [["p|q", "1"]]),
        Figure("plot", SVG, "what it shows"),
    ]
    assert to_markdown(document) == (
        "## A\\*b\n\nx \\< y \\| z next \\`code\\`\n\n- [one]\\(two)\n\n```\na | b\n```\n\n"
        "| name | n |\n| :-- | --: |\n| p\\|q | 1 |\n\n![what it shows](plots/plot.svg)\n"
    )


def test_html_escapes_text_and_names_itself_by_the_title() -> None:
    page = to_html([Heading(1, "A & B"), Paragraph("<script>"), Table(["<b>"], [["<i>"]])])
    assert "<title>A &amp; B</title>" in page
    assert "&lt;script&gt;" in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert "<script" not in page


def test_two_figures_keep_their_ids_apart_and_take_the_pages_size() -> None:
    page = to_html([Figure("one", SVG, "1"), Figure("two", SVG, "2")])
    for name in ("one", "two"):
        assert page.count(f'id="{name}-a"') == 1
        assert f'href="#{name}-a"' in page
        assert f"url(#{name}-a)" in page
    assert 'width="3pt"' not in page
    assert 'stroke-width="1"' in page
    assert "<?xml" not in page
    assert page.count("<!DOCTYPE") == 1


def test_columns_without_anything_are_left_out() -> None:
    table = Table(["a", "b", "c"], [["1", EMPTY, EMPTY], ["2", EMPTY, "3"]], left=2)
    assert without_empty_columns(table) == Table(["a", "c"], [["1", EMPTY], ["2", "3"]], left=1)
