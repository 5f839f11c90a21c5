"""User windows spelled out event by event, and the batches they make, for the tests of MTGR."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table
from torchrec_gr.sequences.request_batch import RequestBatch

TABLE_ROWS = {"item": 30, "tag": 6, "click": 3, "country": 5, "hour": 7, "rate": 9}
TABLE_DIM = 4
USER, EVENT = ("country",), ("history_item", "history_tag", "history_click")
CANDIDATE, REQUEST = ("item", "tag", "rate_of_tag"), ("hour",)


def window_schema(labels: tuple[str, ...] = ("click", "like")) -> FeatureSchema:
    """Every role has ids and numbers; candidates have no outcome, and lack a number of events."""
    key = ("user", "tag")
    return FeatureSchema(
        name="windows",
        labels=labels,
        features=(
            Feature("load", "contextual", "dense"),
            Feature("hour", "contextual"),
            Feature("country", "contextual"),
            Feature("age", "contextual", "dense"),
            Feature("history_item", "history", column="item"),
            Feature("history_tag", "history", column="tag"),
            Feature("history_click", "history", column="click"),
            Feature("history_watched", "history", "dense", column="watched"),
            Feature("history_price", "history", "dense", column="price"),
            Feature("item", "candidate"),
            Feature("tag", "candidate"),
            Feature(
                "rate_of_tag", "candidate", table="rate", statistic="rate", over=key, of="click"
            ),
            Feature("count_of_tag", "candidate", "dense", statistic="count", over=key),
            Feature("price", "candidate", "dense"),
        ),
        tables=tuple(Table(name) for name in TABLE_ROWS),
        user="user",
        time="time",
        request_features=("hour", "load"),
    )


class Event(NamedTuple):
    """Ids of EVENT; watched and price."""

    time: int
    ids: tuple[int, ...]
    numbers: tuple[float, ...]


class Candidate(NamedTuple):
    """Ids of CANDIDATE and REQUEST; count and price, then load."""

    time: int
    ids: tuple[int, ...]
    numbers: tuple[float, ...]
    labels: tuple[int, int]


class Window(NamedTuple):
    """One sequence: events oldest first, the first of them long-term; country; age."""

    events: tuple[Event, ...]
    num_static: int
    candidates: tuple[Candidate, ...]
    country: int
    age: float


def draw_event(draw: random.Random, time: int) -> Event:
    ids = tuple(draw.randrange(TABLE_ROWS[name]) for name in ("item", "tag", "click"))
    return Event(time, ids, (draw.gauss(0, 1), draw.gauss(0, 1)))


def draw_candidate(draw: random.Random, time: int) -> Candidate:
    ids = tuple(draw.randrange(TABLE_ROWS[name]) for name in ("item", "tag", "rate", "hour"))
    numbers = tuple(draw.gauss(0, 1) for _ in range(3))
    return Candidate(time, ids, numbers, (draw.randrange(2), draw.randrange(2)))


def draw_window(
    draw: random.Random, event_times: Sequence[int], num_static: int, candidate_times: Sequence[int]
) -> Window:
    return Window(
        tuple(draw_event(draw, time) for time in event_times),
        num_static,
        tuple(draw_candidate(draw, time) for time in candidate_times),
        draw.randrange(TABLE_ROWS["country"]),
        draw.gauss(0, 1),
    )


def batch_of(
    windows: Sequence[Window], of_requests: bool = False, num_labels: int = 2
) -> RequestBatch:
    """The batch of some windows.

    Args:
        windows: one or more.
        of_requests: give the request's features to the request, as the serving reader does: those
            of the first candidate.
        num_labels: how many of the labels.
    """
    events = [event for window in windows for event in window.events]
    candidates = [candidate for window in windows for candidate in window.candidates]
    num_events = [len(window.events) for window in windows]
    num_candidates = [len(window.candidates) for window in windows]
    ones = [1] * len(windows)
    columns = {"country": ([window.country for window in windows], ones)}
    columns |= {n: ([e.ids[i] for e in events], num_events) for i, n in enumerate(EVENT)}
    columns |= {
        n: ([c.ids[i] for c in candidates], num_candidates) for i, n in enumerate(CANDIDATE)
    }
    ages = [[window.age] for window in windows]
    numbers = _numbers([c.numbers for c in candidates], 3)
    if of_requests:
        firsts = [(*window.candidates, None)[0] for window in windows]
        columns["hour"] = ([c.ids[3] if c else 0 for c in firsts], ones)
        loads = [c.numbers[2] if c else 0.0 for c in firsts]
        ages = [[load, age] for load, (age,) in zip(loads, ages, strict=True)]
        numbers = numbers[:, :2]
    else:
        columns["hour"] = ([c.ids[3] for c in candidates], num_candidates)
    return RequestBatch(
        ids=KeyedJaggedTensor(
            keys=list(columns),
            values=torch.tensor([x for values, _ in columns.values() for x in values]).long(),
            lengths=torch.tensor([n for _, lengths in columns.values() for n in lengths]),
            stride=len(windows),
        ),
        contextual=["hour", "country"] if of_requests else ["country"],
        history=list(EVENT),
        candidates=[*CANDIDATE, *(() if of_requests else REQUEST)],
        negatives=[],
        num_candidates=torch.tensor(num_candidates),
        history_times=torch.tensor([e.time for e in events], dtype=torch.int64),
        candidate_times=torch.tensor([c.time for c in candidates], dtype=torch.int64),
        num_static=torch.tensor([window.num_static for window in windows]),
        user_ids=torch.arange(len(windows)),
        source_rows=torch.arange(len(candidates)),
        dense_contextual=torch.tensor(ages),
        dense_history=_numbers([e.numbers for e in events], 2),
        dense_candidates=numbers,
        labels=_numbers([c.labels for c in candidates], 2)[:, :num_labels],
    )


def _numbers(rows: list[tuple[float, ...]], width: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, width)


def changed(
    window: Window, change: Callable[[Event | Candidate], list[Event | Candidate]]
) -> Window:
    """The window with each event and each candidate replaced by none, one or more."""
    events = [new for event in window.events for new in change(event)]
    candidates = [new for candidate in window.candidates for new in change(candidate)]
    return window._replace(events=tuple(events), candidates=tuple(candidates))
