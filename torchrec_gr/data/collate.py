"""Encoded rows and their users' events -> a RequestBatch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.data.event_store import EventStore
from torchrec_gr.data.requests import request_starts
from torchrec_gr.data.rows import Rows
from torchrec_gr.schema.feature_schema import FeatureSchema, Kind, Role
from torchrec_gr.sequences.request_batch import RequestBatch


class Histories(NamedTuple):
    """The histories of U requests.

    Args:
        positions: [T] int64, their events, request after request, oldest first.
        lengths: [U] int64, events of each.
        num_static: [U] int64, how many leading ones of each are long-term.
    """

    positions: np.ndarray
    lengths: np.ndarray
    num_static: np.ndarray


def collate_requests(
    schema: FeatureSchema,
    rows: Rows,
    events: EventStore | None,
    start: np.ndarray,
    end: np.ndarray,
    known_before: np.ndarray,
) -> RequestBatch:
    """Makes a request of each run of rows of one user, moment and context (`request_starts`).

    Without rows it is one empty request, of no user, without history or candidate, because TorchRec
    takes no batch without requests. Its contextual ids are the out-of-vocabulary row 0, so that a
    contextual key always has one value a request.

    Args:
        schema: of the log.
        rows: N encoded impressions.
        events: what `start` and `end` count in; None where the schema has no history.
        start, end: [N] int64, the events of each row's history, oldest first.
        known_before: [N] int64, the moments that the rows' histories end before, which are the
            batch's `candidate_times`.

    Returns:
        At least one request, with N candidates in all, on the CPU.
    """
    first = np.flatnonzero(request_starts(schema, rows))
    start, end = start[first], end[first]
    histories = Histories(ranges(start, end), end - start, np.zeros_like(start))
    return _collate(schema, rows, events, first, histories, known_before, of_candidates=())


def collate_windows(
    schema: FeatureSchema,
    rows: Rows,
    events: EventStore | None,
    first: np.ndarray,
    histories: Histories,
    known_before: np.ndarray,
) -> RequestBatch:
    """Makes a request of each user's window of exposures.

    What differs between its exposures (`schema.request_features`) is theirs: those keys are the
    last of `candidates`, and those numbers the last of `dense_candidates`. Without rows it is one
    empty request, as in `collate_requests`.

    Args:
        schema: of the log.
        rows: N encoded impressions, window after window, oldest first.
        events: what `histories.positions` counts in; None where the schema has no history.
        first: [U] int64, where each window begins in `rows`.
        histories: of the windows: every event that one of its exposures may see.
        known_before: [N] int64, the moments that the exposures' histories end before, which are the
            batch's `candidate_times`.

    Returns:
        max(U, 1) requests, with N candidates in all, on the CPU.
    """
    of_candidates = schema.request_features
    return _collate(schema, rows, events, first, histories, known_before, of_candidates)


def _collate(
    schema: FeatureSchema,
    rows: Rows,
    events: EventStore | None,
    first: np.ndarray,
    histories: Histories,
    candidate_times: np.ndarray,
    of_candidates: Sequence[str],
) -> RequestBatch:
    """A request of each run of rows; some contextual features are given to its candidates."""
    num_requests = max(len(first), 1)
    num_candidates = _one_each(np.diff(first, append=len(rows)))
    history_lengths = _one_each(histories.lengths)
    names = _names(schema, "contextual")
    contextual = [name for name in names if name not in of_candidates]
    candidates = _names(schema, "candidate") + [name for name in names if name in of_candidates]
    numbers = _names(schema, "contextual", "dense")
    one_each = np.ones(num_requests, np.int64)
    columns = {name: (_one_each(rows.ids[name][first]), one_each) for name in contextual}
    columns |= {
        name: (np.take(events.rows[name], histories.positions), history_lengths)  # type: ignore[union-attr]
        for name in _names(schema, "history")
    }
    columns |= {name: (rows.ids[name], num_candidates) for name in candidates}
    return RequestBatch(
        ids=_keyed_jagged(columns, num_requests),
        contextual=contextual,
        history=_names(schema, "history"),
        candidates=candidates,
        negatives=[],
        num_candidates=torch.from_numpy(num_candidates),
        history_times=_times(events, histories.positions),
        candidate_times=torch.from_numpy(candidate_times),
        num_static=torch.from_numpy(_one_each(histories.num_static)),
        user_ids=torch.from_numpy(_one_each(rows.user_index[first], fill=-1)),
        source_rows=torch.from_numpy(rows.source_rows),
        dense_contextual=_stack(
            [_one_each(rows.dense[name][first]) for name in numbers if name not in of_candidates]
        ),
        dense_history=_dense_history(schema, events, histories.positions),
        dense_candidates=_stack(
            [rows.dense[name] for name in _names(schema, "candidate", "dense")]
            + [rows.dense[name] for name in numbers if name in of_candidates]
        ),
        labels=torch.from_numpy(rows.labels),
        item_ages=None if rows.item_ages is None else torch.from_numpy(rows.item_ages),
    )


def collate_sequences(
    schema: FeatureSchema,
    events: EventStore,
    index: np.ndarray,
    lengths: np.ndarray,
    user_ids: np.ndarray,
    negatives: Mapping[str, np.ndarray],
) -> RequestBatch:
    """Makes each sequence a request without candidates, for generative pretraining.

    Args:
        schema: of the log.
        events: what `index` counts in.
        index: [T] int64, the events, sequence after sequence, oldest first.
        lengths: [U] int64, events of each sequence; empty for one empty request.
        user_ids: [U] int64.
        negatives: key -> ids drawn for the whole batch.

    Returns:
        max(U, 1) requests, on the CPU.
    """
    num_requests = max(len(lengths), 1)
    history = _names(schema, "history")
    lengths = lengths if len(lengths) else np.zeros(1, np.int64)
    columns = {name: (np.take(events.rows[name], index), lengths) for name in history}
    for name, drawn in negatives.items():
        columns[name] = (drawn, np.array([len(drawn)] + [0] * (num_requests - 1)))
    return RequestBatch(
        ids=_keyed_jagged(columns, num_requests),
        contextual=[],
        history=history,
        candidates=[],
        negatives=list(negatives),
        num_candidates=torch.zeros(num_requests, dtype=torch.int64),
        history_times=_times(events, index),
        candidate_times=torch.zeros(0, dtype=torch.int64),
        num_static=torch.zeros(num_requests, dtype=torch.int64),
        user_ids=torch.from_numpy(_one_each(user_ids, fill=-1)),
        source_rows=torch.zeros(0, dtype=torch.int64),
        dense_history=_dense_history(schema, events, index),
    )


def join_rows(schema: FeatureSchema, pieces: Sequence[Rows]) -> Rows:
    """The rows of all pieces, in order; without pieces, every column with nothing in it."""
    if not pieces:
        return _no_rows(schema)
    if len(pieces) == 1:
        return pieces[0]
    ages = [rows.item_ages for rows in pieces if rows.item_ages is not None]
    return Rows(
        user_index=np.concatenate([rows.user_index for rows in pieces]),
        times=np.concatenate([rows.times for rows in pieces]),
        labels=np.concatenate([rows.labels for rows in pieces]),
        ids={name: np.concatenate([rows.ids[name] for rows in pieces]) for name in pieces[0].ids},
        dense={
            name: np.concatenate([rows.dense[name] for rows in pieces]) for name in pieces[0].dense
        },
        source_rows=np.concatenate([rows.source_rows for rows in pieces]),
        split=np.concatenate([rows.split for rows in pieces]),
        item_ages=np.concatenate(ages) if ages else None,
    )


def _no_rows(schema: FeatureSchema) -> Rows:
    read = [f for f in schema.features if f.role != "history" and not f.is_computed]
    return Rows(
        user_index=np.zeros(0, np.int64),
        times=np.zeros(0, np.int64),
        labels=np.zeros((0, len(schema.labels)), np.float32),
        ids={f.name: np.zeros(0, np.int64) for f in read if f.kind == "categorical"},
        dense={f.name: np.zeros(0, np.float32) for f in read if f.kind == "dense"},
        source_rows=np.zeros(0, np.int64),
        split=np.zeros(0, np.int8),
        item_ages=None if schema.item_time is None else np.zeros(0, np.int64),
    )


def ranges(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """start[0], start[0] + 1, ..., end[0] - 1, start[1], ...: [sum(end - start)] int64."""
    lengths = end - start
    before = np.cumsum(lengths) - lengths
    return np.repeat(start - before, lengths) + np.arange(lengths.sum())


def _keyed_jagged(
    columns: Mapping[str, tuple[np.ndarray, np.ndarray]], num_requests: int
) -> KeyedJaggedTensor:
    """One KeyedJaggedTensor of key -> (values, lengths [num_requests]); lengths become int32."""
    lengths = np.empty((len(columns), num_requests), np.int32)
    for row, (_, given) in zip(lengths, columns.values(), strict=True):
        row[:] = given
    values = [values for values, _ in columns.values()] or [np.zeros(0, np.int64)]
    return KeyedJaggedTensor(
        keys=list(columns),
        values=torch.from_numpy(np.concatenate(values)),
        lengths=torch.from_numpy(lengths.reshape(-1)),
    )


def _names(schema: FeatureSchema, role: Role, kind: Kind = "categorical") -> list[str]:
    return [feature.name for feature in schema.of(role, kind)]


def _one_each(values: np.ndarray, fill: int = 0) -> np.ndarray:
    """One value a request: `fill` for the empty request that stands in for no rows."""
    return values if len(values) else np.full(1, fill, values.dtype)


def _times(events: EventStore | None, index: np.ndarray) -> Tensor:
    if events is None:
        return torch.zeros(0, dtype=torch.int64)
    return torch.from_numpy(np.take(events.times, index))


def _dense_history(
    schema: FeatureSchema, events: EventStore | None, index: np.ndarray
) -> Tensor | None:
    if events is None:
        return None
    dense = events.dense
    return _stack([np.take(dense[name], index) for name in _names(schema, "history", "dense")])


def _stack(columns: list[np.ndarray]) -> Tensor | None:
    return torch.from_numpy(np.stack(columns, axis=1)) if columns else None
