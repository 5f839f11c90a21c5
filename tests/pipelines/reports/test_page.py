"""Blocks as one well-formed, self-contained HTML page."""

from __future__ import annotations

from pipelines.reports.document import Figure, Heading, NamedBullets, Paragraph, Table
from pipelines.reports.page import to_html

SVG = (
    '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg width="3pt" height="2pt" viewBox="0 0 3 2">'
    '<defs><path id="a"/></defs><use xlink:href="#a"/><g clip-path="url(#a)" stroke-width="1"/>'
    "</svg>\n"
)


def test_text_is_escaped_and_the_page_names_itself_by_the_title() -> None:
    blocks = [Paragraph("<script>evil"), NamedBullets([("<i>", "x<u>")]), Table(["<b>"], [["<s>"]])]
    page = to_html([Heading(1, "A & B"), *blocks])
    assert "<title>A &amp; B</title>" in page
    assert "&lt;script&gt;evil" in page
    for tag in ("<b>", "<i>", "<u>", "<s>", "<script>evil"):
        assert tag not in page
    assert "<strong>&lt;i&gt;</strong> x&lt;u&gt;" in page


def test_words_of_a_verdict_and_long_ones_are_marked() -> None:
    words = "a long one " * 5
    page = to_html([Table(["name", "verdict"], [[words, "better"], ["short", "not told apart"]])])
    assert '<td class="better">' in page
    assert '<td class="word wide">' in page
    assert '<td class="word">short' in page
    assert "<td>not told apart" in page


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
