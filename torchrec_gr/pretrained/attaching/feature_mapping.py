"""Which of the user's keys read which table of an artefact, and what their rows stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, nearest_valid
from torchrec_gr.schema.vocabulary import Vocabulary, raw_ids

RowIds: TypeAlias = "NDArray[Any] | pa.Array | pa.ChunkedArray | Vocabulary"
"""What row numbers stand for: [rows] raw ids, null where a row stands for none, or a vocabulary."""


@dataclasses.dataclass(frozen=True)
class MappedTable:
    """A table of the artefact, as the user's keys read it.

    Args:
        source: its name in the artefact.
        keys: the user's keys that read it.
        row_ids: what the user's row numbers stand for, [rows] int64 or large_string or a
            vocabulary; None: nobody said, they are the artefact's own.
    """

    source: str
    keys: tuple[str, ...]
    row_ids: pa.Array | Vocabulary | None

    @property
    def name(self) -> str:
        """Its name in the user's model, where another table may have the artefact's name."""
        return f"pretrained_{self.source}"

    @property
    def num_rows(self) -> int | None:
        """As many as `row_ids` are."""
        if isinstance(self.row_ids, Vocabulary):
            return self.row_ids.num_rows
        return None if self.row_ids is None else len(self.row_ids)


@dataclasses.dataclass(frozen=True)
class FeatureMapping:
    """The user's keys, as the sequence module reads them.

    Args:
        features: the artefact's history features that are read.
        history: keys of the events, one for each of them.
        candidates: keys of the candidate, one a history feature that it shares a table with.
        tables: what they read.
    """

    features: tuple[str, ...]
    history: tuple[str, ...]
    candidates: tuple[str, ...]
    tables: tuple[MappedTable, ...]


def map_features(
    schema: FeatureSchema,
    features: Mapping[str, str | None],
    candidate: Mapping[str, str | None],
    vocabularies: Mapping[str, RowIds],
    item: str | None = None,
) -> FeatureMapping:
    """Maps an artefact's features to the user's keys, in the schema's order.

    Args:
        schema: the artefact's.
        features: by history feature (its name or its column in the log) the user's key; None leaves
            it out.
        candidate: likewise, the key with the candidate's own id.
        vocabularies: by history feature or table, what the user's row numbers stand for.
        item: the history feature that cannot be left out; it comes first.

    Raises:
        ValueError: a name that does not exist, a feature that is not mapped, no candidate, or one
            key for two features.
    """
    history = _history_keys(schema, features)
    candidates = _candidate_keys(schema, candidate, history)
    if item is not None:
        history = _with_first(history, item, "features")
        candidates = _with_first(candidates, item, "candidate")
    keys = [*history.values(), *candidates.values()]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(
            f"keys {twice} are given more than once in features {dict(features)} and candidate "
            f"{dict(candidate)}: each of the artefact's features reads a key of its own"
        )
    read: dict[str, list[str]] = {}
    for mapped in (history, candidates):
        for name, key in mapped.items():
            read.setdefault(schema.feature(name).table, []).append(key)
    row_ids = _row_ids(schema, vocabularies, set(read))
    return FeatureMapping(
        features=tuple(history),
        history=tuple(history.values()),
        candidates=tuple(candidates.values()),
        tables=tuple(
            MappedTable(table, tuple(of_table), row_ids.get(table))
            for table, of_table in read.items()
        ),
    )


def _history_keys(schema: FeatureSchema, features: Mapping[str, str | None]) -> dict[str, str]:
    """The user's key of each history feature that is not left out, in the schema's order."""
    given = _by_feature(schema, features, "features")
    missing = [f.name for f in schema.of("history") if f.name not in given]
    if missing:
        raise ValueError(
            f"features: nothing was said of the artefact's history features {missing}: map each to "
            "the key of your histories that holds it, or to None to leave it out"
        )
    mapped = {f.name: key for f in schema.of("history") if (key := given[f.name]) is not None}
    if not mapped:
        raise ValueError("features: all of the artefact's history features are left out: map one")
    return mapped


def _candidate_keys(
    schema: FeatureSchema, candidate: Mapping[str, str | None], history: Mapping[str, str]
) -> dict[str, str]:
    """The user's key of the candidate's own value of each history feature that it shares."""
    given = _by_feature(schema, candidate, "candidate")
    without = sorted(name for name in given if name not in history and given[name] is not None)
    if without:
        raise ValueError(
            f"candidate: {without} are left out of features: a candidate is read as an event is, "
            "map them there as well"
        )
    missing = [name for name in history if schema.candidate_of(name) and name not in given]
    if missing:
        raise ValueError(
            f"candidate: nothing was said of {missing}: map each to the key that holds the "
            "candidate's own value, one a row, or to None to leave it out"
        )
    mapped = {name: key for name in history if (key := given.get(name)) is not None}
    if not mapped:
        raise ValueError(
            "candidate: no key holds the candidate's own id: map one of the artefact's history "
            f"features {list(history)} to it"
        )
    return mapped


def _with_first(keys: dict[str, str], item: str, argument: str) -> dict[str, str]:
    if item not in keys:
        raise ValueError(
            f"{argument}: {item!r} is the item, which the module cannot do without: map it to the "
            "key that holds it"
        )
    return {item: keys[item], **keys}


def _by_feature(
    schema: FeatureSchema, given: Mapping[str, str | None], argument: str
) -> dict[str, str | None]:
    """What was given, by the history feature's name."""
    found: dict[str, str | None] = {}
    for word, key in given.items():
        name = _history_feature(schema, word, argument).name
        if name in found:
            raise ValueError(f"{argument}: {word!r} names {name!r}, which is named twice")
        found[name] = key
    return found


def _history_feature(schema: FeatureSchema, word: str, argument: str) -> Feature:
    """The history feature that a word means: its name, its column, or its candidate's name."""
    history = schema.of("history")
    tables = {f.table for f in schema.of("candidate") if f.name == word}
    meant = (
        [f for f in history if f.name == word]
        or [f for f in history if f.column == word]
        or [f for f in history if f.table in tables]
    )
    if len(meant) > 1:
        raise ValueError(
            f"{argument}: {word!r} is read by several history features of the artefact: name one "
            f"of {[f.name for f in meant]}"
        )
    if not meant:
        words = {f.name for f in history} | {f.column for f in history}
        raise ValueError(nearest_valid(f"history feature in {argument}", word, words))
    return meant[0]


def _row_ids(
    schema: FeatureSchema, vocabularies: Mapping[str, RowIds], tables: set[str]
) -> dict[str, pa.Array | Vocabulary]:
    """By table; what is said of tables that nothing reads is passed over."""
    table_of = {feature.table: feature.table for feature in schema.of("history")}
    for feature in schema.of("history"):
        table_of[feature.column] = table_of[feature.name] = feature.table
    found: dict[str, pa.Array | Vocabulary] = {}
    for word, given in vocabularies.items():
        if word not in table_of:
            raise ValueError(nearest_valid("feature or table in vocabularies", word, table_of))
        table = table_of[word]
        if table not in tables:
            continue
        if table in found:
            raise ValueError(
                f"vocabularies: table {table!r} is given twice, by features or by its name: all "
                "keys that read a table share its rows"
            )
        found[table] = _as_row_ids(given, word)
    return found


def _as_row_ids(given: RowIds, word: str) -> pa.Array | Vocabulary:
    if isinstance(given, Vocabulary):
        return given
    if not isinstance(given, (pa.Array, pa.ChunkedArray)):
        given = np.asarray(given)
        if given.ndim != 1:
            raise ValueError(
                f"vocabularies[{word!r}]: expected one raw id a row, [rows], got {given.shape}"
            )
    ids = raw_ids(given, f"vocabularies[{word!r}]")
    if not len(ids):
        raise ValueError(f"vocabularies[{word!r}]: expected one raw id a row, got none")
    return ids
