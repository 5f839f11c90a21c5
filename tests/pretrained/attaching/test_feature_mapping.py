"""The words that a user may say an artefact's features by, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.pretrained.attaching.attach_cases import vocabularies
from torchrec_gr.pretrained.attaching.feature_mapping import (
    FeatureMapping,
    MappedTable,
    map_features,
)
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table

SCHEMA = FeatureSchema(
    name="shop",
    labels=("click",),
    features=(
        Feature("seen_item", "history", column="item_id", table="item"),
        Feature("seen_brand", "history", column="brand_id", table="brand"),
        Feature("tab", "history"),
        Feature("item", "candidate", column="item_id", table="item"),
        Feature("brand", "candidate", column="brand_id", table="brand"),
    ),
    tables=(Table("item"), Table("brand"), Table("tab")),
    user="user",
    time="time",
    target="seen_item",
)
FEATURES: dict[str, str | None] = {"item_id": "hist", "seen_brand": "hist_brand", "tab": "tabs"}
CANDIDATE: dict[str, str | None] = {"seen_item": "cand", "brand": "cand_brand"}


def mapped(**changes: Any) -> FeatureMapping:
    given = {"features": FEATURES, "candidate": CANDIDATE, "vocabularies": {}}
    return map_features(SCHEMA, **{**given, **changes})


def test_names_columns_and_candidates_mean_a_history_feature() -> None:
    expected = FeatureMapping(
        features=("seen_item", "seen_brand", "tab"),
        history=("hist", "hist_brand", "tabs"),
        candidates=("cand", "cand_brand"),
        tables=(
            MappedTable("item", ("hist", "cand"), None),
            MappedTable("brand", ("hist_brand", "cand_brand"), None),
            MappedTable("tab", ("tabs",), None),
        ),
    )
    assert mapped() == expected
    assert [table.name for table in expected.tables] == [
        "pretrained_item",
        "pretrained_brand",
        "pretrained_tab",
    ]
    shuffled = dict(reversed(FEATURES.items()))
    assert mapped(features=shuffled, candidate={"item": "cand", "brand_id": "cand_brand"}) == (
        expected
    )


def test_what_is_none_is_left_out() -> None:
    found = mapped(
        features={"item_id": "hist", "seen_brand": None, "tab": "tabs"},
        candidate={"item_id": "cand", "brand": None},
    )
    assert found.history == ("hist", "tabs")
    assert [table.source for table in found.tables] == ["item", "tab"]
    assert mapped(candidate={"item": "cand", "brand": None}).candidates == ("cand",)


@pytest.mark.parametrize("word", ["item", "item_id", "seen_item"])
def test_rows_may_be_given_in_any_form(word: str) -> None:
    forms = [[7, 8, None], np.array([7.0, 8.0, np.nan]), pa.array([7, 8, None])]
    for form in forms:
        table = mapped(vocabularies={word: form}).tables[0]
        assert table.row_ids == pa.array([7, 8, None], pa.int64())
        assert table.num_rows == 3
    vocabulary = vocabularies()["item"]
    table = mapped(vocabularies={word: vocabulary}).tables[0]
    assert table.row_ids is vocabulary
    assert table.num_rows == vocabulary.num_rows
    strings = mapped(vocabularies={word: np.array(["a", "b"])}).tables[0].row_ids
    assert strings == pa.array(["a", "b"], pa.large_string())


ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": (
        {"features": {**FEATURES, "tabb": "x"}},
        "unknown history feature in features 'tabb': did you mean 'tab'",
    ),
    "named twice": ({"features": {**FEATURES, "seen_item": "x"}}, "named twice"),
    "not mapped": (
        {"features": {"item_id": "hist"}},
        r"nothing was said of the artefact's history features \['seen_brand', 'tab'\]",
    ),
    "all out": ({"features": dict.fromkeys(FEATURES)}, "all of .* are left out"),
    "one key twice": ({"candidate": {"item": "hist", "brand": None}}, r"\['hist'\] are given more"),
    "no candidate": ({"candidate": {"item": None, "brand": None}}, "no key holds the candidate's"),
    "half a candidate": ({"candidate": {"item": "cand"}}, r"nothing was said of \['seen_brand'\]"),
    "of no history": (
        {"features": {**FEATURES, "seen_brand": None}},
        r"\['seen_brand'\] are left out of features",
    ),
    "unknown table": (
        {"vocabularies": {"itms": [1]}},
        "unknown feature or table in vocabularies 'itms': did you mean 'item'",
    ),
    "table twice": ({"vocabularies": {"item": [1], "item_id": [1]}}, "'item' is given twice"),
    "no rows": ({"vocabularies": {"item": np.zeros(0, np.int64)}}, "one raw id a row, got none"),
    "a square": ({"vocabularies": {"item": np.zeros((2, 2))}}, r"got \(2, 2\)"),
    "fractions": ({"vocabularies": {"item": np.array([0.5])}}, "ids are integers or strings"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_does_not_fit_is_refused(case: str) -> None:
    changes, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        mapped(**changes)


def test_a_column_of_two_features_is_refused() -> None:
    schema = FeatureSchema(
        name="two",
        labels=("click",),
        features=(
            Feature("one", "history", column="item"),
            Feature("other", "history", column="item", table="item"),
            Feature("item", "candidate"),
        ),
        tables=(Table("item"),),
        user="user",
        time="time",
    )
    with pytest.raises(ValueError, match=r"name one of \['one', 'other'\]"):
        map_features(schema, {"item": "hist"}, {"one": "cand"}, {})
