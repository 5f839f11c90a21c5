"""Columns of a log -> table rows, numbers and users' places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchrec_gr.data.columns import Columns
from torchrec_gr.schema.feature_schema import Feature
from torchrec_gr.schema.vocabulary import Vocabulary


def encode_features(
    columns: Columns, features: Iterable[Feature], vocabularies: Mapping[str, Vocabulary]
) -> dict[str, NDArray[Any]]:
    """Feature name -> [N] int64 rows of its table, or [N] float32 transformed numbers.

    Raises:
        ValueError: a value that cannot be used, with its file, column and row.
    """
    found: dict[tuple[str, str, str], NDArray[Any]] = {}  # features may share all but their role
    for feature in features:
        key = (feature.column, feature.table, feature.transform)
        if key in found:
            continue
        if feature.kind == "categorical":
            ids = columns.ids(feature.column)
            with columns.naming_the_file():
                found[key] = vocabularies[feature.table].rows(ids, feature.column)
        else:
            found[key] = columns.numbers(feature.column, feature.transform)
    return {f.name: found[f.column, f.table, f.transform] for f in features}


def encode_users(
    columns: Columns, user: str | None, vocabulary: Vocabulary | None
) -> NDArray[np.int64]:
    """[N] int64: each row's place among the users; -1 where the log has no users."""
    if user is None or vocabulary is None:
        return np.full(len(columns), -1, dtype=np.int64)
    return vocabulary.rows(columns.users(user), user) - 1
