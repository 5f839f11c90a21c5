"""What the columns of a log mean: features, the tables they look up, labels, user and time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from torchrec_gr.schema.feature import (
    KINDS,
    ROLES,
    STATISTICS,
    TICKS_PER_SECOND,
    TIME_UNITS,
    TRANSFORMS,
    Feature,
    Kind,
    Role,
    SchemaError,
    Statistic,
    Table,
    TimeUnit,
    Transform,
    check_feature,
    check_word,
    nearest_valid,
    unique,
)

__all__ = [
    "KINDS",
    "ROLES",
    "STATISTICS",
    "TICKS_PER_SECOND",
    "TIME_UNITS",
    "TRANSFORMS",
    "Feature",
    "FeatureSchema",
    "Kind",
    "Role",
    "SchemaError",
    "Statistic",
    "Table",
    "TimeUnit",
    "Transform",
    "nearest_valid",
]


@dataclasses.dataclass(frozen=True)
class FeatureSchema:
    """The columns of an impression log, typed.

    A row of the log is one impression: a user, a moment, a candidate, its labels. History features
    are read off the user's earlier rows, so they name the same columns.

    Args:
        name: of the log.
        labels: columns that hold 0 or 1; the first is the one that metrics are reported for.
        features: every feature, in the order that batches keep.
        tables: every table; one that a feature names and that is not here is an error.
        user: column of the raw user id; None where the log has none (then there is no history).
        time: column of the event time; None where the log has none.
        time_unit: of `time`; "order" where it is only a position in the user's sequence.
        utc_offset_hours: of the clock by which a day begins (`history_as_of: day`).
        max_history: how many newest events a history keeps.
        target: history feature whose next value generative pretraining predicts.
        side_target: low-cardinality history feature predicted beside it.
        item_time: column of the time at which the row's candidate came into being, in the unit of
            `time`; null where it is not known. A batch then has the candidates' ages.
        request_features: contextual features that change from request to request; in a sequence of
            several requests each candidate has its own.

    Raises:
        SchemaError: a contradiction, or a name that does not exist (with the nearest valid one).
    """

    name: str
    labels: tuple[str, ...]
    features: tuple[Feature, ...]
    tables: tuple[Table, ...]
    user: str | None = None
    time: str | None = None
    time_unit: TimeUnit = "ms"
    utc_offset_hours: float = 0.0
    max_history: int = 50
    target: str | None = None
    side_target: str | None = None
    item_time: str | None = None
    request_features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self)

    def of(self, role: Role, kind: Kind = "categorical") -> tuple[Feature, ...]:
        """The features of one role and kind, in order."""
        return tuple(f for f in self.features if f.role == role and f.kind == kind)

    def feature(self, name: str) -> Feature:
        """The feature called `name`."""
        for feature in self.features:
            if feature.name == name:
                return feature
        raise SchemaError(nearest_valid("feature", name, (f.name for f in self.features)))

    def candidate_of(self, history: str) -> Feature | None:
        """The candidate feature that shares the table of a history feature, if there is one."""
        table = self.feature(history).table
        for candidate in self.of("candidate"):
            if candidate.table == table:
                return candidate
        return None

    @property
    def has_clock(self) -> bool:
        """Whether the log's times are moments, and no mere order within each user's events."""
        return self.time is not None and self.time_unit != "order"

    @property
    def computed(self) -> tuple[Feature, ...]:
        """The features that are computed from the log's past, in order."""
        return tuple(f for f in self.features if f.is_computed)

    @property
    def item(self) -> Feature | None:
        """The candidate feature that is the item: the one that shares the target's table."""
        return self.candidate_of(self.target) if self.target else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `from_dict` takes them."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeatureSchema:
        """Reads plain values; a key or word that is not known is an error naming the nearest."""
        known = _known_fields(cls, values, "schema key")
        for key in ("name", "labels", "features"):
            if key not in known:
                raise SchemaError(f"a schema needs {key!r}: it has {', '.join(known) or 'nothing'}")
        known["labels"] = tuple(known["labels"])
        known["request_features"] = _names(known.get("request_features", ()), "request_features")
        known["features"] = tuple(map(_feature, known["features"]))
        known["tables"] = tuple(
            Table(**_known_fields(Table, t, "table key")) for t in known.get("tables", ())
        )
        return cls(**known)

    @classmethod
    def from_yaml(cls, path: str | Path) -> FeatureSchema:
        """Reads a YAML file of the keys of this class."""
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise SchemaError(f"{path} is not YAML: {error}") from error
        try:
            return cls.from_dict(values)
        except SchemaError as error:
            raise SchemaError(f"{path}: {error}") from error

    def to_yaml(self) -> str:
        """The text of a file that `from_yaml` reads."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _feature(values: object) -> Feature:
    known = _known_fields(Feature, values, "feature key")
    known["over"] = _names(known.get("over", ()), f"over of feature {known.get('name')!r}")
    return Feature(**known)


def _names(values: object, what: str) -> tuple[str, ...]:
    if not isinstance(values, (list, tuple)):
        raise SchemaError(f"{what} must be a list of names, got {values!r}: write [{values}]")
    return tuple(values)


def _known_fields(cls: type, values: object, what: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise SchemaError(f"expected a mapping of {what}s, got {values!r}")
    names = {field.name for field in dataclasses.fields(cls)}
    for key in values:
        if key not in names:
            raise SchemaError(nearest_valid(what, key, names))
    return dict(values)


def _check(schema: FeatureSchema) -> None:
    if not schema.labels:
        raise SchemaError("a schema needs at least one label column")
    check_word("time_unit", schema.time_unit, TIME_UNITS)
    if schema.max_history < 1:
        raise SchemaError(f"max_history must be at least 1, got {schema.max_history}")
    tables = unique("table", (t.name for t in schema.tables))
    names = unique("feature", (f.name for f in schema.features))
    for feature in schema.features:
        check_feature(feature, tables)
    for feature in schema.computed:
        _check_computed(schema, feature)
    if schema.of("history") or schema.of("history", "dense"):
        for key in ("user", "time"):
            if getattr(schema, key) is None:
                raise SchemaError(f"history features need {key!r}: name the log's {key} column")
    if schema.of("history", "dense") and not schema.of("history"):
        raise SchemaError("dense history features need a categorical one beside them: the item")
    if schema.item_time is not None and not schema.has_clock:
        raise SchemaError(
            f"item_time {schema.item_time!r} needs `time` in us, ms or s beside it: an age is the "
            f"time between them; got time {schema.time!r} in {schema.time_unit!r}"
        )
    for key in ("target", "side_target"):
        _check_target(schema, key, names)
    contextual = {f.name for f in schema.features if f.role == "contextual"}
    for name in unique("request feature", schema.request_features):
        if name not in contextual:
            raise SchemaError(nearest_valid("contextual feature", name, contextual))


def _check_computed(schema: FeatureSchema, feature: Feature) -> None:
    name = f"computed feature {feature.name!r}"
    if not schema.has_clock:
        raise SchemaError(
            f"{name} needs `time` in us, ms or s, which says what is earlier in the whole log: got "
            f"time {schema.time!r} in {schema.time_unit!r}"
        )
    others = [f.name for f in schema.features if f.table and f.table == feature.table]
    if len(others) > 1:
        raise SchemaError(
            f"{name} needs a table of its own, whose rows are its buckets: table "
            f"{feature.table!r} is that of features {', '.join(others)}"
        )


def _check_target(schema: FeatureSchema, key: str, names: set[str]) -> None:
    target = getattr(schema, key)
    if target is None:
        return
    if target not in names:
        raise SchemaError(nearest_valid(key, target, names))
    feature = schema.feature(target)
    if feature.role != "history" or feature.kind != "categorical":
        raise SchemaError(f"{key} {target!r} must be a categorical history feature")
