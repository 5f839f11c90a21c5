"""The documented schema is that of the code, takes what is written and refuses what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pipelines.results.rows import ResultRow, append_results, read_results
from pipelines.results.schema import results_schema, to_text

COMMITTED = Path(__file__).parents[3] / "docs" / "results.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(results_schema())


def row(**changed: Any) -> dict[str, Any]:
    made = ResultRow("dlrm", "none", 0, 1, 0.7, 1.0, 10, 16, gauc_refused="streaming")
    return {**made.to_dict(), **changed}


def test_the_committed_schema_is_the_codes() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == to_text(results_schema()), (
        "python -m pipelines.results.schema > docs/results.schema.json"
    )


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(results_schema())


def test_what_is_written_fits_it(tmp_path: Path) -> None:
    rows = [
        ResultRow(
            *("gpsd", "sparse-freeze", 1, 2, 0.71, 20.0, 1000, 16, "all users"),
            validation_auc=0.72,
            gauc=0.6,
            gauc_users_counted=10,
            gauc_users_left_out=2,
            pretrain_seconds=5.0,
            train_flops=3e12,
            frozen=("item",),
            metrics={"auc_item_unseen": 0.6, "ne_item_unseen": None},
        ),
        ResultRow("popularity", "none", 0, 0, 0.6, 0.0, 0, gauc_refused="streaming"),
    ]
    append_results(tmp_path, rows)
    VALIDATOR.validate(json.loads((tmp_path / "results.json").read_text()))


@pytest.mark.parametrize(
    "changed",
    [
        {"auc": 1.2},
        {"auc": None},
        {"seed": 0.5},
        {"model": ""},
        {"frozen": [1]},
        {"train_seconds": -1.0},
        {"dim": "16"},
        {"further": "words"},
    ],
)
def test_what_reading_refuses_does_not_fit(tmp_path: Path, changed: dict[str, Any]) -> None:
    VALIDATOR.validate([row()])
    assert not VALIDATOR.is_valid([row(**changed)])
    (tmp_path / "results.json").write_text(json.dumps([row(**changed)]))
    with pytest.raises(ValueError, match=next(iter(changed))):
        read_results(tmp_path)


@pytest.mark.parametrize("name", ["model", "strategy", "seed", "epoch", "auc", "parameters"])
def test_a_row_without_a_required_field_does_not_fit(name: str) -> None:
    assert not VALIDATOR.is_valid([{key: value for key, value in row().items() if key != name}])


def test_every_field_is_described() -> None:
    for name, field in results_schema()["items"]["properties"].items():
        assert len(field["description"]) > 5, name
