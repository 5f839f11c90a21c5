"""What the pages say is there: files, modules, messages of the doctor, MathML in the place of math.

The site itself is in test_site.py, the code blocks are in test_code_blocks.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from site_hooks.docstrings import shown
from tests.docs.blocks import PAGES, ROOT

NOT_THERE = {"torchrec_gr/models/mean_history.py"}
"""Files that a page tells its reader to write."""

API_PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))


def public_modules() -> set[str]:
    """Every module of torchrec_gr whose name has no leading underscore, packages left out."""
    files = (ROOT / "torchrec_gr").rglob("*.py")
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in files
        if not file.name.startswith("_")
    }


def test_every_public_module_is_on_one_api_page() -> None:
    shown = [
        name
        for page in API_PAGES
        for name in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert len(shown) == len(set(shown))
    assert set(shown) - {"torchrec_gr"} == public_modules()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    rooms = "tests|torchrec_gr|pipelines|csrc|examples|benchmarks|requirements|docs"
    named = set(re.findall(rf"`((?:{rooms})/[\w./-]*[\w/])`", text)) - NOT_THERE
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_name_of_ours_that_a_page_spells_out_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for dotted in set(re.findall(r"`(torchrec_gr(?:\.\w+)+)[`(]", text)):
        assert _resolves(dotted), f"{page.name}: {dotted}"


def _resolves(dotted: str) -> bool:
    """Whether a dotted name is a module of ours, or in one; `_C` is the compiled one."""
    parts = dotted.split(".")
    if parts[-1] == "_C":
        return True
    for length in range(len(parts), 0, -1):
        module = ROOT.joinpath(*parts[:length])
        for file in (module.with_suffix(".py"), module / "__init__.py"):
            if file.is_file():
                rest = parts[length:]
                return not rest or rest[0] in file.read_text(encoding="utf-8")
    return False


def test_docstrings_are_shown_as_they_were_written() -> None:
    written = "In [0, 2**30), `2**30`.\n\nArgs:\n    a: b.\n\nSource: a paper,\n    section 3.\n"
    lines = shown(written).splitlines()
    assert lines[0] == r"In [0, 2\*\*30), `2**30`."
    assert lines[-1] == "**Source:** a paper, section 3."


def test_every_message_of_the_doctor_has_an_entry() -> None:
    source = (ROOT / "torchrec_gr" / "doctor.py").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "guides" / "troubleshooting.md").read_text(encoding="utf-8")
    entries = page[: page.index("## When a run stops")].replace("`", "")
    said = sorted({said for function in _functions(source) for said in _messages(function)})
    assert len(said) >= 10
    assert [message for message in said if message not in entries] == []


def _functions(source: str) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            yield node


def _messages(function: ast.FunctionDef) -> Iterator[str]:
    """What a function's findings that are not ok, and its failed outcomes, say in literals."""
    assigned = {
        target.id: node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(function):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        kind = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        place = {("Finding", "FAIL"): 2, ("Finding", "no"): 2, ("Outcome", False): 1}.get(
            (node.func.id, kind)  # type: ignore[arg-type]
        )
        if place is not None:
            yield from _literals(node.args[place], assigned)


def _literals(node: ast.expr, assigned: dict[str, ast.expr]) -> Iterator[str]:
    """The longest piece of each literal that an expression may be."""
    if isinstance(node, ast.Name) and node.id in assigned:
        yield from _literals(assigned[node.id], {})
    elif isinstance(node, ast.IfExp):
        yield from _literals(node.body, assigned)
        yield from _literals(node.orelse, assigned)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        pieces = [str(part.value) for part in node.values if isinstance(part, ast.Constant)]
        text = max((piece.strip(" :,") for piece in pieces), key=len, default="")
        if len(text) > 4:
            yield text
