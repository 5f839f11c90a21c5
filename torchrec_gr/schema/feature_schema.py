"""What the columns of a log mean: features, the tables they look up, labels, user and time."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

Role = Literal["contextual", "history", "candidate"]
Kind = Literal["categorical", "dense"]
Transform = Literal["none", "log1p"]
TimeUnit = Literal["us", "ms", "s", "order"]

ROLES: tuple[Role, ...] = ("contextual", "history", "candidate")
KINDS: tuple[Kind, ...] = ("categorical", "dense")
TRANSFORMS: tuple[Transform, ...] = ("none", "log1p")
TIME_UNITS: tuple[TimeUnit, ...] = ("us", "ms", "s", "order")
TICKS_PER_SECOND = {"us": 1_000_000, "ms": 1_000, "s": 1}
"""Time unit -> how many of it are a second; an order has no seconds."""


class SchemaError(ValueError):
    """A schema that contradicts itself or names something that does not exist."""


def nearest_valid(what: str, given: object, valid: Iterable[str]) -> str:
    """Says that `given` is not a valid `what`, and which valid word is nearest to it."""
    words, given_word = sorted(valid), str(given)

    def likeness(word: str) -> tuple[float, bool]:
        ratio = difflib.SequenceMatcher(None, given_word, word).ratio()
        return ratio, sorted(word) == sorted(given_word)  # of equals, the one of the same letters

    close = difflib.get_close_matches(given_word, words, n=3, cutoff=0.4)
    hint = f"did you mean {max(close, key=likeness)!r}? " if close else ""
    return f"unknown {what} {given!r}: {hint}valid: {', '.join(words) or '(none)'}"


@dataclasses.dataclass(frozen=True)
class Table:
    """One embedding table, shared by every categorical feature that names it.

    Args:
        name: the table's name, and its name in TorchRec's state dicts.
        min_count: ids seen fewer times than this in the training window share the
            out-of-vocabulary row 0.
    """

    name: str
    min_count: int = 1


@dataclasses.dataclass(frozen=True)
class Feature:
    """One feature: where it is read, what part it plays, how it becomes a number or a row.

    Args:
        name: its key in a batch; unique in the schema.
        role: "contextual" (of the request), "history" (of an event) or "candidate".
        kind: "categorical" (looked up in `table`) or "dense" (a number).
        column: the log's column; default: `name`.
        table: the table of a categorical feature; default: `column`.
        transform: of a dense feature; "log1p" is sign(x) * log(1 + |x|).
    """

    name: str
    role: Role
    kind: Kind = "categorical"
    column: str = ""
    table: str = ""
    transform: Transform = "none"

    def __post_init__(self) -> None:
        if not self.column:
            object.__setattr__(self, "column", self.name)
        if self.kind == "categorical" and not self.table:
            object.__setattr__(self, "table", self.column)


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
        known["features"] = tuple(
            Feature(**_known_fields(Feature, f, "feature key")) for f in known["features"]
        )
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
    _check_word("time_unit", schema.time_unit, TIME_UNITS)
    if schema.max_history < 1:
        raise SchemaError(f"max_history must be at least 1, got {schema.max_history}")
    tables = _unique("table", [t.name for t in schema.tables])
    names = _unique("feature", [f.name for f in schema.features])
    for feature in schema.features:
        _check_feature(feature, tables)
    if schema.of("history") or schema.of("history", "dense"):
        for key in ("user", "time"):
            if getattr(schema, key) is None:
                raise SchemaError(f"history features need {key!r}: name the log's {key} column")
    if schema.of("history", "dense") and not schema.of("history"):
        raise SchemaError("dense history features need a categorical one beside them: the item")
    if schema.item_time is not None and (schema.time is None or schema.time_unit == "order"):
        raise SchemaError(
            f"item_time {schema.item_time!r} needs `time` in us, ms or s beside it: an age is the "
            f"time between them; got time {schema.time!r} in {schema.time_unit!r}"
        )
    for key in ("target", "side_target"):
        _check_target(schema, key, names)


def _check_word(what: str, given: str, valid: tuple[str, ...]) -> None:
    if given not in valid:
        raise SchemaError(nearest_valid(what, given, valid))


def _unique(what: str, names: list[str]) -> set[str]:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise SchemaError(f"{what} {sorted(twice)[0]!r} is declared twice")
    return set(names)


def _check_feature(feature: Feature, tables: set[str]) -> None:
    _check_word(f"role of feature {feature.name!r}", feature.role, ROLES)
    _check_word(f"kind of feature {feature.name!r}", feature.kind, KINDS)
    _check_word(f"transform of feature {feature.name!r}", feature.transform, TRANSFORMS)
    if feature.kind == "dense" and feature.table:
        raise SchemaError(f"feature {feature.name!r} is dense: it cannot have a table")
    if feature.kind == "categorical" and feature.transform != "none":
        raise SchemaError(f"feature {feature.name!r} is categorical: it cannot have a transform")
    if feature.kind == "categorical" and feature.table not in tables:
        raise SchemaError(
            nearest_valid(f"table of feature {feature.name!r}", feature.table, tables)
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
