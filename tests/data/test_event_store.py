"""Histories: sorted whatever the order of the log, strictly before the moment asked about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrec_gr.data.event_store import EventSorter, EventStore
from torchrec_gr.schema import Feature, FeatureSchema, Table
from torchrec_gr.sequences.request_batch import NO_TIME

SCHEMA = FeatureSchema(
    name="log",
    labels=("y",),
    features=(Feature("item", "history"), Feature("price", "history", "dense")),
    tables=(Table("item"),),
    user="user",
    time="time",
    max_history=2,
)


def store_of(users: list[int], times: list[int], max_history: int = 2) -> EventStore:
    """A store without features of events that are sorted already."""
    num_users = max(users, default=-1) + 1
    return EventStore(
        user_starts=np.searchsorted(users, np.arange(num_users + 1)),
        times=np.array(times, np.int64),
        rows={},
        dense={},
        split=np.zeros(len(users), np.int8),
        splits=("train",),
        max_history=max_history,
    )


def test_events_are_sorted_by_user_then_time_then_the_order_they_came_in(tmp_path: Path) -> None:
    sorter = EventSorter(tmp_path / "events", SCHEMA, num_events=6)
    first = np.array([2, 0, 2, 2]), np.array([5, 9, 5, NO_TIME]), np.array([0, 1, 0, 0], np.int8)
    sorter.add(*first, {"item": np.array([1, 2, 3, 4]), "price": np.array([0.1, 0.2, 0.3, 0.4])})
    second = np.array([2, 0]), np.array([1, 9]), np.array([1, 0], np.int8)
    sorter.add(*second, {"item": np.array([5, 6]), "price": np.array([0.5, 0.6])})
    sorter.finish(num_users=3)
    store = EventStore.load(tmp_path / "events", SCHEMA, ("train", "test"))
    assert store.user_starts.tolist() == [0, 2, 2, 6]
    assert store.rows["item"].tolist() == [2, 6, 4, 5, 1, 3]
    assert store.dense["price"].tolist() == pytest.approx([0.2, 0.6, 0.4, 0.5, 0.1, 0.3])
    assert store.times.tolist() == [9, 9, NO_TIME, 1, 5, 5]
    assert store.split.tolist() == [1, 0, 0, 1, 0, 0]
    assert not list((tmp_path / "events").glob("unsorted*"))


def test_a_store_of_no_events_has_empty_histories(tmp_path: Path) -> None:
    EventSorter(tmp_path / "events", SCHEMA, num_events=0).finish(num_users=2)
    store = EventStore.load(tmp_path / "events", SCHEMA, ("train",))
    _, start, end = store.before(np.array([0, 1]), np.array([5, 5]))
    assert (end - start).tolist() == [0, 0]


def test_before_is_strict_and_the_newest_events_are_kept() -> None:
    store = store_of([0, 0, 0, 0, 2], [1, 3, 3, 7, 2])
    users = np.array([0, 0, 0, 0, 1, 2, -1])
    moments = np.array([1, 3, 4, 8, 9, 3, 9])
    _, start, end = store.before(users, moments)
    assert list(zip(start, end, strict=True)) == [
        (0, 0),  # the event at 1 itself is not before 1
        (0, 1),  # nor are the two at 3 before 3
        (1, 3),  # of three, the newest two
        (2, 4),
        (4, 4),  # a user without events
        (4, 5),
        (0, 0),  # nobody
    ]
    assert store.before(users, moments)[0].tolist() == [0, 0, 0, 0, 4, 4, 0]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=40),
    st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 11)), min_size=1, max_size=20),
    st.integers(1, 5),
)
def test_ranges_equal_the_definition(events: list, asked: list, max_history: int) -> None:
    events = sorted([*events, (4, 20)])
    store = store_of([u for u, _ in events], [t for _, t in events], max_history)
    users, moments = np.array(asked).T
    _, start, end = store.before(users, moments)
    for i, (user, moment) in enumerate(asked):
        expected = [j for j, (u, t) in enumerate(events) if u == user and t < moment]
        assert list(range(start[i], end[i])) == expected[-max_history:]


def test_the_events_of_some_splits_are_selected_by_user() -> None:
    store = EventStore(
        user_starts=np.array([0, 3, 3, 5]),
        times=np.arange(5),
        rows={},
        dense={},
        split=np.array([0, 1, 0, 1, 2], np.int8),
        splits=("train", "validation", "test"),
        max_history=2,
    )
    offsets, positions = store.select(["train"])
    assert offsets.tolist() == [0, 2, 2, 2]
    assert positions.tolist() == [0, 2]
    offsets, positions = store.select(["test", "validation"])
    assert offsets.tolist() == [0, 1, 1, 3]
    assert positions.tolist() == [1, 3, 4]
    with pytest.raises(ValueError, match="unknown split 'tain': did you mean 'train'"):
        store.select(["tain"])
