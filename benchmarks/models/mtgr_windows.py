"""Drawn windows of exposures for the MTGR benchmark: one batch, cut or taken apart in any way."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table
from torchrec_gr.sequences.candidate_layout import offsets_of
from torchrec_gr.sequences.request_batch import RequestBatch

TABLE_DIM = 32
TABLE_ROWS = {
    "user_id": 20_000,
    "age": 16,
    "activity": 16,
    "device": 64,
    "item": 50_000,
    "author": 10_000,
    "action": 16,
    "tab": 16,
    "user_author_count": 32,
    "user_tag_rate": 128,
}
_CROSSES = ("user_author_count", "user_tag_rate")
_CROSS_NUMBERS = ("count", "rate", "recency")

SCHEMA = FeatureSchema(
    name="windows",
    labels=("click", "long_view"),
    features=(
        *(Feature(name, "contextual") for name in ("user_id", "age", "activity", "device", "tab")),
        *(Feature(name, "contextual", kind="dense") for name in ("followers", "days")),
        *(
            Feature(f"history_{name}", "history", column=name, table=name)
            for name in ("item", "author", "action")
        ),
        Feature("history_duration", "history", kind="dense", column="duration"),
        *(Feature(name, "candidate") for name in ("item", "author", *_CROSSES)),
        *(Feature(name, "candidate", kind="dense") for name in ("duration", *_CROSS_NUMBERS)),
    ),
    tables=tuple(Table(name) for name in TABLE_ROWS),
    user="user_id",
    time="time",
    request_features=("tab",),
)

_CONTEXTUAL = ["user_id", "age", "activity", "device"]
_HISTORY = [feature.name for feature in SCHEMA.of("history")]
_CANDIDATES = [*(feature.name for feature in SCHEMA.of("candidate")), "tab"]
_NUM_USER_NUMBERS = 2
NUM_USER_TOKENS = len(_CONTEXTUAL) + _NUM_USER_NUMBERS


def draw_windows(
    num_history: Tensor,
    num_candidates: Tensor,
    num_real_time: Tensor,
    *,
    at_once: bool = False,
    seed: int = 0,
) -> RequestBatch:
    """Random ids and numbers; a row's exposures lie between its real-time events.

    Args:
        num_history, num_candidates, num_real_time: [U] int64, of each row; real-time events are the
            last of the history.
        at_once: all exposures are behind the history, as those of one request are.
        seed: of everything drawn.
    """
    draw = torch.Generator().manual_seed(seed)
    num_rows, num_static = len(num_history), num_history - num_real_time
    num_events, num_all = int(num_history.sum()), int(num_candidates.sum())
    counts = {key: torch.ones_like(num_history) for key in _CONTEXTUAL}
    counts |= dict.fromkeys(_HISTORY, num_history) | dict.fromkeys(_CANDIDATES, num_candidates)
    ids = {
        key: torch.randint(TABLE_ROWS[SCHEMA.feature(key).table], (int(n.sum()),), generator=draw)
        for key, n in counts.items()
    }
    places = torch.arange(num_events) - offsets_of(num_history)[:-1].repeat_interleave(num_history)
    room = (num_real_time + 1).repeat_interleave(num_candidates)
    after = (torch.rand(num_all, generator=draw) * room).long()
    if at_once:
        after = room - 1
    after += num_static.repeat_interleave(num_candidates)
    rows = torch.arange(num_rows).repeat_interleave(num_candidates)
    after = after[(rows * (int(num_history.max()) + 1) + after).argsort()]
    return RequestBatch(
        ids=_keyed(ids, counts),
        contextual=_CONTEXTUAL,
        history=_HISTORY,
        candidates=_CANDIDATES,
        negatives=[],
        num_candidates=num_candidates,
        history_times=2 * places,
        candidate_times=2 * after - 1,
        num_static=num_static,
        user_ids=torch.arange(num_rows),
        source_rows=torch.arange(num_all),
        dense_contextual=torch.randn(num_rows, _NUM_USER_NUMBERS, generator=draw),
        dense_history=torch.randn(num_events, 1, generator=draw),
        dense_candidates=torch.randn(num_all, 1 + len(_CROSS_NUMBERS), generator=draw),
        labels=torch.randint(2, (num_all, 2), generator=draw).float(),
    )


def num_tokens(batch: RequestBatch) -> Tensor:
    """[U] int64: of each row."""
    return NUM_USER_TOKENS + batch.num_history() + batch.num_candidates


def take_rows(batch: RequestBatch, rows: Tensor) -> RequestBatch:
    """Some rows, [n] int64."""
    num_history, num_candidates = batch.num_history(), batch.num_candidates
    return _gather(
        batch,
        rows,
        _stretches(offsets_of(num_history)[rows], num_history[rows]),
        _stretches(offsets_of(num_candidates)[rows], num_candidates[rows]),
        num_history[rows],
        num_candidates[rows],
    )


def one_sequence_each(batch: RequestBatch) -> RequestBatch:
    """Every exposure in a row of its own, behind the events that happened before it."""
    rows = torch.arange(batch.num_requests).repeat_interleave(batch.num_candidates)
    lengths = batch.num_history()[rows]
    events = _stretches(offsets_of(batch.num_history())[rows], lengths)
    moments = batch.candidate_times.repeat_interleave(lengths)
    is_known = batch.history_times[events] < moments
    num_known = offsets_of(is_known.long())[offsets_of(lengths)].diff()
    ones = torch.ones_like(rows)
    return _gather(batch, rows, events[is_known], torch.arange(len(rows)), num_known, ones)


def take_part(request: RequestBatch, events: Tensor, candidates: Tensor) -> RequestBatch:
    """Some of the events [T] and candidates [C] of one request, whose labels are not taken."""
    counts = (torch.tensor([len(places)]) for places in (events, candidates))
    part = _gather(request, torch.tensor([0]), events, candidates, *counts)
    return dataclasses.replace(part, labels=None)


def _stretches(starts: Tensor, lengths: Tensor) -> Tensor:
    """start, start + 1, ..., start + length - 1 of each."""
    places = torch.arange(int(lengths.sum())) - offsets_of(lengths)[:-1].repeat_interleave(lengths)
    return starts.repeat_interleave(lengths) + places


def _gather(
    batch: RequestBatch,
    rows: Tensor,
    events: Tensor,
    candidates: Tensor,
    num_history: Tensor,
    num_candidates: Tensor,
) -> RequestBatch:
    """New rows: the places of theirs, of their events and of their candidates in the batch."""
    places = dict.fromkeys(_CONTEXTUAL, rows) | dict.fromkeys(_HISTORY, events)
    places |= dict.fromkeys(_CANDIDATES, candidates)
    counts = {key: torch.ones_like(rows) for key in _CONTEXTUAL}
    counts |= dict.fromkeys(_HISTORY, num_history) | dict.fromkeys(_CANDIDATES, num_candidates)
    given = batch.ids.to_dict()
    return dataclasses.replace(
        batch,
        ids=_keyed({key: given[key].values()[at] for key, at in places.items()}, counts),
        num_candidates=num_candidates,
        history_times=batch.history_times[events],
        candidate_times=batch.candidate_times[candidates],
        num_static=batch.num_static[rows],
        user_ids=batch.user_ids[rows],
        source_rows=batch.source_rows[candidates],
        dense_contextual=_rows_of(batch.dense_contextual, rows),
        dense_history=_rows_of(batch.dense_history, events),
        dense_candidates=_rows_of(batch.dense_candidates, candidates),
        labels=_rows_of(batch.labels, candidates),
    )


def _rows_of(values: Tensor | None, places: Tensor) -> Tensor | None:
    return None if values is None else values[places]


def _keyed(values: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(
        keys=list(values),
        values=torch.cat(list(values.values())),
        lengths=torch.cat([counts[key] for key in values]).int(),
    )
