"""The JSON Schema of results.json, made from `ResultRow`.

python -m pipelines.results.schema > docs/results.schema.json
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from typing import Any

from pipelines.results.rows import ResultRow

_TYPES = {"str": "string", "int": "integer", "float": "number", "tuple[str, ...]": "array"}
_AT_MOST_1 = ("auc", "validation_auc", "gauc")


def results_schema() -> dict[str, Any]:
    """The schema of the whole file: a list of rows, one an epoch of a run.

    A key that is no field of `ResultRow` is a further metric: a number or null.
    """
    words = _descriptions()
    fields = [field for field in dataclasses.fields(ResultRow) if field.name != "metrics"]
    row = {
        "type": "object",
        "properties": {
            field.name: {"description": words[field.name], **_kind(field)} for field in fields
        },
        "required": [
            field.name
            for field in fields
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        ],
        "additionalProperties": {"description": words["metrics"], "type": ["number", "null"]},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "results.json of a comparison or a benchmark",
        "description": "One object for each epoch of each run, measured on the test set.",
        "type": "array",
        "items": row,
    }


def to_text(schema: dict[str, Any]) -> str:
    """The file's content."""
    return f"{json.dumps(schema, indent=2)}\n"


def _kind(field: dataclasses.Field[Any]) -> dict[str, Any]:
    """What JSON Schema says of values of a field."""
    annotation = str(field.type)
    name = _TYPES[annotation.removesuffix(" | None")]
    kind: dict[str, Any] = {"type": [name, "null"] if annotation.endswith("None") else name}
    if name in ("integer", "number"):
        kind["minimum"] = 0
    if field.name in _AT_MOST_1:
        kind["maximum"] = 1
    if name == "string":
        kind["minLength"] = 1
    if name == "array":
        kind["items"] = {"type": "string"}
    return kind


def _descriptions() -> dict[str, str]:
    """What the docstring of `ResultRow` says of each field."""
    arguments = (inspect.getdoc(ResultRow) or "").split("Args:\n")[1].split("\n\n")[0]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", arguments, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


if __name__ == "__main__":
    print(to_text(results_schema()), end="")
