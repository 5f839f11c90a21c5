"""One feature of a log and the table it looks up: what each may say, checked."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Literal

Role = Literal["contextual", "history", "candidate"]
Kind = Literal["categorical", "dense"]
Transform = Literal["none", "log1p"]
TimeUnit = Literal["us", "ms", "s", "order"]
Statistic = Literal["count", "rate", "recency"]

ROLES: tuple[Role, ...] = ("contextual", "history", "candidate")
KINDS: tuple[Kind, ...] = ("categorical", "dense")
TRANSFORMS: tuple[Transform, ...] = ("none", "log1p")
TIME_UNITS: tuple[TimeUnit, ...] = ("us", "ms", "s", "order")
STATISTICS: tuple[Statistic, ...] = ("count", "rate", "recency")
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

    A feature with a `statistic` is not read but computed, from the log's past alone: over all rows
    and events of the same key that are earlier than what the row's history ends before. A number is
    log(1 + how many); the log-odds of the rate, smoothed, less those of the rate of everything; or
    1 / (1 + log(1 + seconds since the last)). Without a past it is 0. An id is a bucket of it, in a
    table of its own (`torchrec_gr.data.cross_features`).

    Args:
        name: its key in a batch; unique in the schema.
        role: "contextual" (of the request), "history" (of an event) or "candidate".
        kind: "categorical" (looked up in `table`) or "dense" (a number).
        column: the log's column; default: `name`. A computed feature has none.
        table: the table of a categorical feature; default: `column`, or `name` if computed.
        transform: of a dense feature; "log1p" is sign(x) * log(1 + |x|).
        statistic: "count", "rate" or "recency" of a computed feature, which is a candidate's.
        over: of a computed feature: the columns whose values together are the key.
        of: of a rate: the column of 0, 1 or null (not known) that it is the rate of.
    """

    name: str
    role: Role
    kind: Kind = "categorical"
    column: str = ""
    table: str = ""
    transform: Transform = "none"
    statistic: Statistic | None = None
    over: tuple[str, ...] = ()
    of: str | None = None

    def __post_init__(self) -> None:
        if not self.column and not self.is_computed:
            object.__setattr__(self, "column", self.name)
        if self.kind == "categorical" and not self.table:
            object.__setattr__(self, "table", self.column or self.name)

    @property
    def is_computed(self) -> bool:
        """Whether it is computed from the log's past instead of read."""
        return self.statistic is not None


def check_feature(feature: Feature, tables: set[str]) -> None:
    """Refuses a feature that contradicts itself.

    Args:
        feature: of a schema.
        tables: the names of the schema's tables.

    Raises:
        SchemaError: a contradiction, or a word that does not exist (with the nearest valid one).
    """
    check_word(f"role of feature {feature.name!r}", feature.role, ROLES)
    check_word(f"kind of feature {feature.name!r}", feature.kind, KINDS)
    check_word(f"transform of feature {feature.name!r}", feature.transform, TRANSFORMS)
    if feature.kind == "dense" and feature.table:
        raise SchemaError(f"feature {feature.name!r} is dense: it cannot have a table")
    if feature.kind == "categorical" and feature.transform != "none":
        raise SchemaError(f"feature {feature.name!r} is categorical: it cannot have a transform")
    if not feature.is_computed and (feature.over or feature.of is not None):
        raise SchemaError(
            f"feature {feature.name!r} has `over` or `of`, which say what is computed: name its "
            f"statistic, {', '.join(STATISTICS)}"
        )
    if feature.kind == "categorical" and feature.table not in tables:
        raise SchemaError(
            nearest_valid(f"table of feature {feature.name!r}", feature.table, tables)
        )
    if feature.is_computed:
        _check_computed(feature)


def _check_computed(feature: Feature) -> None:
    name, statistic = f"computed feature {feature.name!r}", str(feature.statistic)
    check_word(f"statistic of feature {feature.name!r}", statistic, STATISTICS)
    if feature.role != "candidate":
        raise SchemaError(f"{name} must have the role 'candidate', got {feature.role!r}")
    if feature.column or feature.transform != "none":
        raise SchemaError(f"{name} is not read: it cannot have a column or a transform")
    if not feature.over:
        raise SchemaError(f"{name} needs `over`: the columns whose values are the key")
    unique(f"column in `over` of {name}:", feature.over)
    if statistic == "rate" and feature.of is None:
        raise SchemaError(f"{name} is a rate: it needs `of`, a column of 0 and 1")
    if statistic != "rate" and feature.of is not None:
        raise SchemaError(f"{name} is a {statistic}: only a rate has `of`, got {feature.of!r}")


def check_word(what: str, given: str, valid: tuple[str, ...]) -> None:
    """Refuses a word that is not one of the valid ones."""
    if given not in valid:
        raise SchemaError(nearest_valid(what, given, valid))


def unique(what: str, names: Iterable[str]) -> set[str]:
    """The names as a set; one that occurs twice is refused."""
    names = list(names)
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise SchemaError(f"{what} {sorted(twice)[0]!r} is declared twice")
    return set(names)
