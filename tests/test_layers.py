"""Imports point down only: the arrows between the package's rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
PACKAGE = REPO / "torchrec_gr"

ALLOWED: dict[str, set[str]] = {
    "schema": set(),
    "metrics": set(),
    "ops": set(),
    "retrieval": set(),
    "sequences": {"ops", "schema"},
    "embeddings": {"ops", "schema"},
    "modules": {"sequences", "ops"},
    "models": {"modules", "embeddings", "sequences", "ops", "schema"},
    "data": {"sequences", "schema", "metrics"},
    "training": {"sequences", "embeddings", "ops", "schema", "metrics"},
    "pretrained": {
        "schema",
        "metrics",
        "ops",
        "sequences",
        "embeddings",
        "modules",
        "models",
        "data",
        "training",
    },
    "doctor": {"training"},
    "__init__": {"pretrained"},  # the package's own
}
ABOVE_THE_PACKAGE = {"pipelines", "examples", "benchmarks", "tests"}


def imported(file: Path) -> Iterator[str]:
    """The full names of the modules that a file imports, wherever in it."""
    package = file.relative_to(REPO).parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*start, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room(module: str) -> str | None:
    """The room of a module of ours: "ops" of "torchrec_gr.ops.attention"."""
    parts = module.split(".")
    return parts[1] if parts[0] == "torchrec_gr" and len(parts) > 1 else None


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(PACKAGE))
)
def test_imports_point_down(file: Path) -> None:
    here = file.relative_to(PACKAGE).with_suffix("").parts[0]
    allowed = ALLOWED.get(here, set()) | {here, "__version__"}
    for module in imported(file):
        assert module.split(".")[0] not in ABOVE_THE_PACKAGE, f"{file} imports {module}"
        target = room(module)
        assert target is None or target in allowed, f"{here} must not import {module}"


def test_every_room_has_its_arrows() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms | {"doctor", "__init__"} == set(ALLOWED)


def test_no_model_imports_another() -> None:
    """Models share modules, tables and what they read, never each other; a system has files."""
    shared = {"table_configs", "ranking_inputs", "ranking_body"}
    for file in (PACKAGE / "models").glob("*.py"):
        for module in imported(file):
            parts = module.split(".")
            if parts[:2] == ["torchrec_gr", "models"]:
                same_system = parts[2].split("_")[0] == file.stem.split("_")[0]
                assert parts[2] in shared or same_system, f"{file.name} imports {module}"
