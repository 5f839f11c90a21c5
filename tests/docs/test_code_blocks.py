"""Every code block of README.md and of docs/ runs.

A page is read from top to bottom by someone with an empty folder: YAML and Python files that a
block names are written there, commands run there, Python blocks share one namespace.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipelines.configuration.command_line import read_settings
from pipelines.configuration.config import build
from pipelines.recommending.settings import NextItemSettings
from tests.docs.blocks import PAGES, ROOT, Block, read_blocks
from tests.docs.commands import (
    AbsentDataError,
    Reader,
    commands_of,
    is_slow,
    parse_only,
    small_data,
)
from torchrec_gr.schema.feature_schema import FeatureSchema

RESULTS = ROOT / "docs" / "results.md"
READ = [page for page in PAGES if page != RESULTS and read_blocks(page)]


def leaves_out(block: Block) -> bool:
    """Whether the quick tests leave something of a block out."""
    commands = commands_of(block.text, {}) if block.language == "bash" else []
    return block.slow or any(map(is_slow, commands))


def name_of(page: Path) -> str:
    """As it is called in reports."""
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="session")
def data(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str], Path]:
    """Slices of the real data, made when they are first asked for."""
    folder = tmp_path_factory.mktemp("data")

    def give(name: str) -> Path:
        try:
            return small_data(request.getfixturevalue("shared_data"), folder, name)
        except pytest.skip.Exception as absent:
            raise AbsentDataError(str(absent)) from None

    return give


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is made once for all pages."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def read_page(
    tmp_path: Path,
    data: Callable[[str], Path],
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Path, bool], None]:
    """Does what a page says."""

    def read(page: Path, in_full: bool) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        torch.manual_seed(0)
        reader = Reader(tmp_path, data, made, in_full, monkeypatch)
        names: dict[str, Any] = {"__name__": "__page__"}
        for block in read_blocks(page):
            carry_out(block, reader, names)
        sys.modules.pop("my_models", None)
        if reader.absent:
            pytest.skip(f"the rest was read, but {'; '.join(reader.absent)}")

    return read


def carry_out(block: Block, reader: Reader, names: dict[str, Any]) -> None:
    """Does what one block says."""
    if block.language in ("text", "math"):
        return
    if block.file_name:
        (reader.folder / block.file_name).write_text(block.text, encoding="utf-8")
    if block.language == "yaml":
        load(block, reader.folder)
    elif block.language == "bash":
        for command in commands_of(block.text, reader.variables):
            reader.run(command)
    elif block.language == "python":
        for folder in block.needs:
            reader.make(folder)
        if reader.in_full or not block.slow:
            exec(compile(block.setup, f"{block.place} (setup)", "exec"), names)
            exec(compile(block.text, block.place, "exec"), names)
    else:
        raise AssertionError(f"{block.place}: no rule for a block of {block.language!r}")


def load(block: Block, folder: Path) -> None:
    """Has the code that reads such YAML read it."""
    file = folder / (block.file_name or "block.yaml")
    file.write_text(block.text, encoding="utf-8")
    keys = yaml.safe_load(block.text).keys()
    if "features" in keys:
        FeatureSchema.from_yaml(file)
    elif keys <= {"pinrec", "pool"}:
        build(NextItemSettings, yaml.safe_load(block.text))
    else:
        read_settings(file, {})


@pytest.mark.parametrize("page", READ, ids=name_of)
def test_page(page: Path, read_page: Callable[[Path, bool], None]) -> None:
    read_page(page, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in READ if any(map(leaves_out, read_blocks(page)))], ids=name_of
)
def test_page_in_full(page: Path, read_page: Callable[[Path, bool], None]) -> None:
    read_page(page, True)


def test_commands_of_the_results_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    understood, variables = 0, dict[str, str]()
    for block in read_blocks(RESULTS):
        if block.language not in ("", "bash"):
            continue
        for command in commands_of(block.text, variables):
            if command[:2] == ["python", "-m"] and "..." not in command:
                module, arguments = command[2], command[3:]
                parse_only(module, arguments, monkeypatch)
                for word in arguments:
                    studies = re.fullmatch(r"pipelines/.*\.yaml", word)
                    assert studies is None or (ROOT / word).is_file(), shlex.join(command)
                understood += 1
    assert understood >= 20


def test_a_block_that_no_rule_covers_is_refused(
    tmp_path: Path, made: Path, data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(tmp_path, data, made, False, monkeypatch)
    page = ROOT / "README.md"
    with pytest.raises(AssertionError, match="no rule"):
        carry_out(Block(page, 1, "bash", "rm -r runs\n"), reader, {})
    with pytest.raises(AssertionError, match="no rule"):
        carry_out(Block(page, 1, "toml", "a = 1\n"), reader, {})
    with pytest.raises((SystemExit, AssertionError)):
        carry_out(Block(page, 1, "bash", "python -m pipelines.compare --no-such\n"), reader, {})
    with pytest.raises(AssertionError):
        carry_out(Block(page, 1, "bash", "pip install torch==1.0\n"), reader, {})
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        carry_out(Block(page, 1, "yaml", "epoch: 1\n"), reader, {})
    with pytest.raises(NameError):
        carry_out(Block(page, 1, "python", "nobody_said_what_this_is\n"), reader, {})
