"""What a schema accepts, and what its errors say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from torchrec_gr.schema import Feature, FeatureSchema, SchemaError
from torchrec_gr.schema.feature_schema import nearest_valid


def plain(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": "clicks",
        "labels": ["click"],
        "user": "user_id",
        "time": "time_ms",
        "features": [
            {"name": "hour", "role": "contextual"},
            {"name": "age", "role": "contextual", "kind": "dense", "transform": "log1p"},
            {"name": "item_id", "role": "candidate", "table": "item"},
            {"name": "history_item", "role": "history", "column": "item_id", "table": "item"},
            {"name": "history_tag", "role": "history", "column": "tag"},
        ],
        "tables": [{"name": "hour"}, {"name": "item", "min_count": 2}, {"name": "tag"}],
        "target": "history_item",
        "side_target": "history_tag",
    }
    return values | changes


def with_feature(**feature: str) -> dict[str, Any]:
    return plain(features=[*plain()["features"], feature])


def computed(**changes: Any) -> dict[str, Any]:
    """A schema with a computed feature, and a table that may be that of its buckets."""
    feature = {"name": "x", "role": "candidate", "kind": "dense"}
    feature |= {"statistic": "rate", "over": ["user_id", "item_id"], "of": "click"}
    tables = [*plain()["tables"], {"name": "x"}]
    return plain(features=[*plain()["features"], feature | changes], tables=tables)


def test_features_are_found_by_role_kind_and_table() -> None:
    schema = FeatureSchema.from_dict(plain())
    assert [f.name for f in schema.of("history")] == ["history_item", "history_tag"]
    assert [f.name for f in schema.of("contextual", "dense")] == ["age"]
    assert schema.item == Feature("item_id", "candidate", table="item")
    assert schema.candidate_of("history_tag") is None
    assert schema.feature("history_tag").table == "tag", "a table is named after its column"


def test_yaml_is_read_back_equal(tmp_path: Path) -> None:
    schema = FeatureSchema.from_dict(plain(item_time="made"))
    (tmp_path / "schema.yaml").write_text(schema.to_yaml())
    assert FeatureSchema.from_yaml(tmp_path / "schema.yaml") == schema


def test_computed_features_are_read_back_equal(tmp_path: Path) -> None:
    schema = FeatureSchema.from_dict(computed(kind="categorical") | {"request_features": ["hour"]})
    assert schema.computed == (
        Feature("x", "candidate", statistic="rate", over=("user_id", "item_id"), of="click"),
    )
    assert schema.computed[0].table == "x", "a table of its own, since it has no column"
    assert schema.computed[0].column == ""
    assert schema.request_features == ("hour",)
    (tmp_path / "schema.yaml").write_text(schema.to_yaml())
    assert FeatureSchema.from_yaml(tmp_path / "schema.yaml") == schema


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (plain(label=["x"]), "unknown schema key 'label': did you mean 'labels'"),
        (with_feature(name="x", rolle="history"), "unknown feature key 'rolle'.*'role'"),
        (with_feature(name="x", role="candidat"), "role of feature 'x'.*did you mean 'candidate'"),
        (with_feature(name="x", role="history", kind="dence"), "kind of feature.*'dense'"),
        (
            with_feature(name="x", role="candidate", kind="dense", transform="log"),
            "transform of feature 'x' 'log'.*'log1p'",
        ),
        (with_feature(name="x", role="candidate", table="itm"), "table of feature.*mean 'item'"),
        (plain(target="histori_item"), "unknown target 'histori_item'.*'history_item'"),
        (plain(target="item_id"), "target 'item_id' must be a categorical history feature"),
        (plain(time_unit="msec"), "unknown time_unit 'msec': did you mean 'ms'"),
        (with_feature(name="hour", role="candidate"), "feature 'hour' is declared twice"),
        (plain(tables=[{"name": "tag"}, {"name": "tag"}]), "table 'tag' is declared twice"),
        (plain(tables=[{"name": "tag", "min": 2}]), "unknown table key 'min'.*'min_count'"),
        (plain(user=None), "history features need 'user'"),
        (plain(time=None), "history features need 'time'"),
        (
            plain(item_time="made", time_unit="order"),
            "item_time 'made' needs `time` in us, ms or s",
        ),
        (
            plain(features=[{"name": "hour", "role": "contextual"}], target=None, side_target=None)
            | {"time": None, "item_time": "made"},
            "item_time 'made' needs `time`.*got time None",
        ),
        (plain(labels=[]), "at least one label"),
        (plain(max_history=0), "max_history must be at least 1, got 0"),
        (
            with_feature(name="x", role="candidate", kind="dense", table="tag"),
            "feature 'x' is dense: it cannot have a table",
        ),
        (
            with_feature(name="x", role="candidate", table="tag", transform="log1p"),
            "feature 'x' is categorical: it cannot have a transform",
        ),
        ({"name": "n", "labels": ["y"]}, "a schema needs 'features'"),
        (plain(features=["item"]), "expected a mapping of feature keys, got 'item'"),
        (plain(request_features=["hours"]), "contextual feature 'hours': did you mean 'hour'"),
        (plain(request_features=["item_id"]), "unknown contextual feature 'item_id'"),
        (plain(request_features="hour"), r"must be a list of names, got 'hour': write \[hour\]"),
        (plain(request_features=["hour", "hour"]), "request feature 'hour' is declared twice"),
        (computed(statistic="rat"), "statistic of feature 'x' 'rat': did you mean 'rate'"),
        (computed(of=None), "'x' is a rate: it needs `of`, a column of 0 and 1"),
        (computed(statistic="count"), "'x' is a count: only a rate has `of`, got 'click'"),
        (computed(over=[]), "'x' needs `over`: the columns whose values are the key"),
        (computed(over="item_id"), r"over of feature 'x' must be a list.*write \[item_id\]"),
        (computed(over=["tag", "tag"]), "`over` of computed feature 'x': 'tag' is declared twice"),
        (computed(role="history"), "'x' must have the role 'candidate', got 'history'"),
        (computed(column="price"), "'x' is not read: it cannot have a column"),
        (computed(transform="log1p"), "'x' is not read: it cannot have a column or a transform"),
        (computed(kind="categorical", table="tag"), "needs a table of its own.*history_tag, x"),
        (computed(kind="categorical", table="y"), "unknown table of feature 'x' 'y'"),
        (computed() | {"time_unit": "order"}, "'x' needs `time` in us, ms or s"),
        (
            with_feature(name="x", role="candidate", kind="dense", of="click"),
            "'x' has `over` or `of`.*name its statistic, count, rate, recency",
        ),
    ],
)
def test_a_mistake_is_an_error_that_names_what_is_near(values: dict, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        FeatureSchema.from_dict(values)


def test_an_unknown_feature_names_the_nearest() -> None:
    with pytest.raises(SchemaError, match="did you mean 'history_item'"):
        FeatureSchema.from_dict(plain()).feature("history_itm")


@pytest.mark.parametrize("text", [yaml.safe_dump(plain(lables=[])), "a: [", "- just a list"])
def test_an_error_in_yaml_names_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "my_schema.yaml"
    path.write_text(text)
    with pytest.raises(SchemaError, match=r"my_schema\.yaml"):
        FeatureSchema.from_yaml(path)


def test_of_equally_near_words_the_one_of_the_same_letters_is_named() -> None:
    assert "did you mean 'labels'" in nearest_valid("key", "lables", ("tables", "labels"))
