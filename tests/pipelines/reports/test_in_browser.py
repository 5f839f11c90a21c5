"""The page in a real browser: it renders, fetches nothing, sorts, and fits a phone.

Where there is no browser this is skipped, unless TORCHREC_GR_BROWSER is "required".
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.reports.comparison import write_report
from pipelines.results.artifacts import read_run_info
from tests.pipelines.reports.benchmark_folder import GAINS, fill

REQUIRED = os.environ.get("TORCHREC_GR_BROWSER") == "required"
if REQUIRED:
    import playwright.sync_api as playwright
else:
    playwright = pytest.importorskip("playwright.sync_api")

ARTEFACTS = Path(__file__).parents[3] / ".ci" / "artefacts"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PHONE = {"width": 360, "height": 740}
CELLS = "rows => rows.map(row => row.cells[{}].textContent)"


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        reason = f"no browser: install one of {', '.join(names)}"
        if REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    fill(folder)
    return write_report(folder)


@pytest.fixture
def page(browser: playwright.Browser, report: Path) -> Iterator[playwright.Page]:
    """The report, opened; it must not have complained or asked for anything when it closes."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(report.as_uri())
    yield page
    page.close()
    assert asked == [report.as_uri()]
    assert said == []


def table_with(page: playwright.Page, column: str) -> playwright.Locator:
    """The first table that has this column."""
    head = page.get_by_role("columnheader", name=column, exact=True)
    return page.locator("table").filter(has=head).first


def column_of(table: playwright.Locator, column: str) -> list[str]:
    heads = table.locator("th").all_text_contents()
    return table.locator("tbody tr").evaluate_all(CELLS.format(heads.index(column)))


def leading_numbers(cells: list[str]) -> list[float]:
    return [float(cell.split()[0]) for cell in cells]


def test_everything_is_there_to_be_seen(page: playwright.Page, report: Path) -> None:
    title = read_run_info(report.parent).title
    assert page.title() == title
    assert page.locator("h1").inner_text() == title
    folded = page.locator("details")
    assert folded.count() == 3
    assert not folded.nth(1).locator("table").is_visible()
    for place in range(folded.count()):
        folded.nth(place).locator("summary").click()
    for element in ("table", "svg", "h2"):
        shown = page.locator(element)
        assert shown.count() > 1
        for place in range(shown.count()):
            assert shown.nth(place).is_visible()
    for place in range(folded.count()):
        folded.nth(place).locator("summary").click()
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / "report.png", full_page=True)


def test_a_tap_on_a_head_sorts_and_another_turns_it_round(page: playwright.Page) -> None:
    table = table_with(page, "AUC")
    head = table.get_by_role("columnheader", name="AUC", exact=True)
    before = leading_numbers(column_of(table, "AUC"))
    assert head.get_attribute("aria-sort") is None
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert leading_numbers(column_of(table, "AUC")) == sorted(before, reverse=True)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert leading_numbers(column_of(table, "AUC")) == sorted(before) != before

    models = table.get_by_role("columnheader", name="model", exact=True)
    models.get_by_role("button").click()
    assert models.get_attribute("aria-sort") == "ascending"
    assert head.get_attribute("aria-sort") is None
    assert column_of(table, "model") == sorted(GAINS, key=lambda name: name.replace("_", "!"))


def test_the_keyboard_sorts_too(page: playwright.Page) -> None:
    table = table_with(page, "AUC")
    table.get_by_role("columnheader", name="AUC", exact=True).get_by_role("button").focus()
    page.keyboard.press("Enter")
    values = leading_numbers(column_of(table, "AUC"))
    assert values == sorted(values, reverse=True)
    page.keyboard.press("Space")
    assert leading_numbers(column_of(table, "AUC")) == sorted(values)


def test_numbers_of_every_kind_sort_by_their_size(page: playwright.Page) -> None:
    """Against the order that their values have; equal and missing ones keep their place."""
    cells = ["1.5M", "-", "900k", "2G", "12,345", "-0.5", "0.7 ± 0.2", "3.4x", "50%", "1e+20", "-"]
    values = "".join(f"<tr><td>{i}</td><td>{cell}</td></tr>" for i, cell in enumerate(cells))
    table = "<table><thead><tr><th>i</th><th>n</th></tr></thead><tbody>{}</tbody></table>"
    script = (Path(write_report.__code__.co_filename).parent / "sorting.js").read_text()
    page.set_content(table.format(values) + f"<script>{script}</script>")
    numbers = page.locator("table")
    numbers.locator("button").nth(1).click()
    highest_first = ["1e+20", "2G", "1.5M", "900k", "12,345", "50%", "3.4x", "0.7 ± 0.2", "-0.5"]
    assert column_of(numbers, "n") == [*highest_first, "-", "-"]
    numbers.locator("button").nth(1).click()
    assert column_of(numbers, "n") == [*reversed(highest_first), "-", "-"]
    assert column_of(numbers, "i")[-2:] == ["1", "10"]


def test_equal_cells_keep_the_order_of_the_page(page: playwright.Page) -> None:
    table = table_with(page, "verdict")
    models = column_of(table, "model")
    verdicts = column_of(table, "verdict")
    for order, reverse in (("ascending", False), ("descending", True)):
        table.get_by_role("columnheader", name="verdict", exact=True).get_by_role("button").click()
        filled = [i for i, verdict in enumerate(verdicts) if verdict != "-"]
        filled.sort(key=lambda i: verdicts[i], reverse=reverse)
        expected = [models[i] for i in filled]
        assert column_of(table, "model")[: len(expected)] == expected, order


def test_a_phone_scrolls_tables_but_never_the_page(page: playwright.Page) -> None:
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    boxes = page.locator(".scroll")
    assert boxes.evaluate_all("all => all.some(box => box.scrollWidth > box.clientWidth)")
    wide = table_with(page, "AUC")
    wide.locator("xpath=..").evaluate("box => { box.scrollLeft = 200; }")
    first = wide.locator("tbody tr").first.locator("td").first
    assert first.bounding_box()["x"] < 40  # the model's name stays in view
    wide.locator("xpath=..").evaluate("box => { box.scrollLeft = 0; }")
    for element in ("p", "li", "td", "th", "figcaption"):
        size = page.locator(element).first.evaluate("e => parseFloat(getComputedStyle(e).fontSize)")
        assert size >= 13
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / "report-phone.png", full_page=True)
