"""Rows of one user at one moment are one request, and stay together when rows are shuffled."""

from __future__ import annotations

import numpy as np

from torchrec_gr.data.requests import request_starts, same_history, shuffle_groups
from torchrec_gr.data.rows import Rows
from torchrec_gr.data.shuffle import ROWS, generator
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table

SCHEMA = FeatureSchema(
    name="log",
    labels=("click",),
    features=(
        Feature("device", "contextual"),
        Feature("load", "contextual", "dense"),
        Feature("item", "candidate"),
    ),
    tables=(Table("device"), Table("item")),
)


def rows(
    users: list[int], times: list[int], devices: list[int], loads: list[float] | None = None
) -> Rows:
    num_rows = len(users)
    return Rows(
        user_index=np.array(users, np.int64),
        times=np.array(times, np.int64),
        labels=np.zeros((num_rows, 1), np.float32),
        ids={"device": np.array(devices, np.int64), "item": np.arange(num_rows)},
        dense={"load": np.array(loads or [0.0] * num_rows, np.float32)},
        source_rows=np.arange(num_rows),
        split=np.zeros(num_rows, np.int8),
    )


def test_a_request_ends_where_user_moment_or_context_changes() -> None:
    found = request_starts(
        SCHEMA,
        rows(
            users=[0, 0, 1, 1, 1, 1],
            times=[5, 5, 5, 6, 6, 6],
            devices=[1, 1, 1, 1, 2, 2],
            loads=[0, 0, 0, 0, 0, 1],
        ),
    )
    assert found.tolist() == [True, False, True, True, True, True]


def test_rows_of_no_user_are_requests_of_their_own() -> None:
    assert request_starts(SCHEMA, rows([-1, -1], [0, 0], [1, 1])).all()


def test_no_rows_are_no_requests() -> None:
    assert request_starts(SCHEMA, rows([], [], [])).size == 0


def test_shuffling_keeps_a_requests_rows_together_and_in_order() -> None:
    starts = np.random.default_rng(0).random(500) < 0.4
    starts[0] = True
    order = shuffle_groups(np.cumsum(starts) - 1, np.random.default_rng(1))
    assert sorted(order.tolist()) == list(range(500))
    assert not np.array_equal(order, np.arange(500))
    inside = ~starts[order]  # a row that goes on with a request follows the row before it
    assert (order[1:][inside[1:]] == order[:-1][inside[1:]] + 1).all()


def test_every_window_and_epoch_has_an_order_of_its_own() -> None:
    alone = np.arange(30)
    orders = [
        tuple(shuffle_groups(alone, generator(ROWS, seed, epoch, window)))
        for seed in (0, 1)
        for epoch in (0, 1)
        for window in (0, 1)
    ]
    assert len(set(orders)) == len(orders)


def test_rows_of_one_user_and_moment_have_one_history() -> None:
    users, moments = np.array([3, 1, 3, -1, 3, -1, 1]), np.array([7, 7, 7, 7, 8, 7, 7])
    group = same_history(users, moments)
    same = (users[:, None] == users) & (moments[:, None] == moments) & (users >= 0)
    np.fill_diagonal(same, True)
    assert np.array_equal(group[:, None] == group, same)
    assert sorted(set(group)) == list(range(len(set(group))))


def test_no_rows_are_shuffled_into_no_rows() -> None:
    none = np.zeros(0, np.int64)
    assert shuffle_groups(same_history(none, none), np.random.default_rng(0)).size == 0
