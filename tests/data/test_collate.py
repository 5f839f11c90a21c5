"""Rows and ranges of events -> requests, value by value."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from tests.data.clicks import click_schema
from torchrec_gr.data.collate import collate_requests, collate_sequences, join_rows, ranges
from torchrec_gr.data.event_store import EventStore
from torchrec_gr.data.rows import Rows
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table
from torchrec_gr.sequences.request_batch import NO_AGE

EVENTS = EventStore(
    user_starts=np.array([0, 3, 5]),
    times=np.array([10, 20, 30, 15, 25]),
    rows={"history_item": np.array([1, 2, 3, 4, 5]), "history_tag": np.array([6, 7, 8, 9, 10])},
    dense={"history_price": np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float32)},
    split=np.zeros(5, np.int8),
    splits=("train",),
    max_history=4,
)
ROWS = Rows(
    user_index=np.array([1, 0, 1]),
    times=np.array([99, 15, 15]),
    labels=np.array([[1], [0], [1]], np.float32),
    ids={"hour": np.array([1, 2, 3]), "item": np.array([4, 5, 6]), "tag": np.array([7, 8, 9])},
    dense={
        "age": np.array([20, 30, 40], np.float32),
        "price": np.array([0.5, 0.6, 0.7], np.float32),
    },
    source_rows=np.array([12, 11, 10]),
    split=np.zeros(3, np.int8),
)


def test_each_row_is_a_request_with_one_candidate() -> None:
    batch = collate_requests(
        click_schema(), ROWS, EVENTS, np.array([3, 0, 3]), np.array([5, 1, 3]), ROWS.times
    )
    ids = {
        key: [row.tolist() for row in rows.to_dense()] for key, rows in batch.ids.to_dict().items()
    }
    assert ids == {
        "hour": [[1], [2], [3]],
        "history_item": [[4, 5], [1], []],
        "history_tag": [[9, 10], [6], []],
        "item": [[4], [5], [6]],
        "tag": [[7], [8], [9]],
    }
    assert (batch.contextual, batch.candidates) == (["hour"], ["item", "tag"])
    assert (batch.history, batch.negatives) == (["history_item", "history_tag"], [])
    assert batch.num_history().tolist() == [2, 1, 0]
    assert batch.num_candidates.tolist() == [1, 1, 1]
    assert batch.history_times.tolist() == [15, 25, 10]
    assert batch.candidate_times.tolist() == [99, 15, 15]
    assert batch.user_ids.tolist() == [1, 0, 1]
    assert batch.source_rows.tolist() == [12, 11, 10]
    assert torch.equal(batch.labels, torch.tensor([[1.0], [0.0], [1.0]]))
    assert torch.equal(batch.dense_contextual, torch.tensor([[20.0], [30.0], [40.0]]))
    assert torch.equal(batch.dense_history, torch.tensor([[0.4], [0.5], [0.1]]))
    assert torch.equal(batch.dense_candidates, torch.tensor([[0.5], [0.6], [0.7]]))


def test_torchrec_takes_the_ids() -> None:
    """int32 lengths beside int64 values, with and without rows."""
    schema = click_schema()
    nothing = np.zeros(0, np.int64)
    for batch in (
        collate_requests(
            schema, ROWS, EVENTS, np.array([3, 0, 3]), np.array([5, 1, 3]), ROWS.times
        ),
        collate_requests(schema, join_rows(schema, []), EVENTS, nothing, nothing, nothing),
    ):
        keys = batch.ids.keys()
        assert batch.ids.lengths().dtype == torch.int32
        bags = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    num_embeddings=20, embedding_dim=4, name="all", feature_names=keys
                )
            ]
        )
        assert bags(batch.ids).values().shape == (batch.num_requests, 4 * len(keys))
        sequences = EmbeddingCollection(
            tables=[
                EmbeddingConfig(num_embeddings=20, embedding_dim=4, name="all", feature_names=keys)
            ]
        )
        num_events = int(batch.num_history().sum())
        assert sequences(batch.ids)["history_item"].values().shape == (num_events, 4)


def test_a_log_without_history_or_numbers_has_none() -> None:
    schema = FeatureSchema("ads", ("click",), (Feature("site", "contextual"),), (Table("site"),))
    rows = Rows(
        user_index=np.array([-1, -1]),
        times=np.zeros(2, np.int64),
        labels=np.zeros((2, 1), np.float32),
        ids={"site": np.array([3, 4])},
        dense={},
        source_rows=np.array([0, 1]),
        split=np.zeros(2, np.int8),
    )
    batch = collate_requests(
        schema, rows, None, np.zeros(2, np.int64), np.zeros(2, np.int64), rows.times
    )
    assert batch.history == batch.candidates == []
    assert batch.num_history().tolist() == [0, 0]
    assert batch.num_candidates.tolist() == [1, 1]
    assert batch.history_times.numel() == 0
    assert batch.dense_contextual is batch.dense_history is batch.dense_candidates is None


def test_sequences_have_no_candidates_and_one_place_for_all_negatives() -> None:
    batch = collate_sequences(
        click_schema(),
        EVENTS,
        np.array([3, 4, 0, 1]),
        np.array([2, 2]),
        np.array([1, 0]),
        {"negative_history_item": np.array([7, 8, 9])},
    )
    ids = {
        key: [row.tolist() for row in rows.to_dense()] for key, rows in batch.ids.to_dict().items()
    }
    assert ids == {
        "history_item": [[4, 5], [1, 2]],
        "history_tag": [[9, 10], [6, 7]],
        "negative_history_item": [[7, 8, 9], []],
    }
    assert batch.negatives == ["negative_history_item"]
    assert batch.contextual == batch.candidates == []
    assert batch.num_candidates.tolist() == [0, 0]
    assert batch.history_times.tolist() == [15, 25, 10, 20]
    assert batch.user_ids.tolist() == [1, 0]
    assert batch.labels is None
    assert torch.equal(batch.dense_history, torch.tensor([[0.4], [0.5], [0.1], [0.2]]))


def test_joined_rows_are_the_pieces_in_order() -> None:
    schema = click_schema()
    pieces = [ROWS.take(np.array([0])), join_rows(schema, []), ROWS.take(np.array([1, 2]))]
    joined = join_rows(schema, pieces)
    for ours, theirs in zip(
        [joined.user_index, joined.times, joined.labels, joined.source_rows, joined.split],
        [ROWS.user_index, ROWS.times, ROWS.labels, ROWS.source_rows, ROWS.split],
        strict=True,
    ):
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()
    for name, values in (ROWS.ids | ROWS.dense).items():
        assert (joined.ids | joined.dense)[name].tolist() == values.tolist()


def test_item_ages_go_with_their_candidates() -> None:
    schema = click_schema(item_time="made")
    rows = dataclasses.replace(ROWS, item_ages=np.array([3, 0, NO_AGE]))
    joined = join_rows(schema, [rows.take(np.array([2, 0])), rows.take(np.array([1]))])
    batch = collate_requests(
        schema, joined, EVENTS, np.array([0, 0, 0]), np.array([0, 0, 0]), joined.times
    )
    assert batch.item_ages is not None
    assert batch.item_ages.dtype == torch.int64
    assert batch.item_ages.tolist() == [NO_AGE, 3, 0]
    nothing = np.zeros(0, np.int64)
    empty = collate_requests(schema, join_rows(schema, []), EVENTS, nothing, nothing, nothing)
    assert empty.item_ages is not None
    assert empty.item_ages.shape == (0,)
    assert empty.item_ages.dtype == torch.int64
    without = collate_requests(
        click_schema(), ROWS, EVENTS, np.zeros(3, int), np.zeros(3, int), ROWS.times
    )
    assert without.item_ages is None


def test_ranges_count_through_each_range() -> None:
    assert ranges(np.array([5, 2, 2, 9]), np.array([7, 2, 4, 10])).tolist() == [5, 6, 2, 3, 9]
    assert ranges(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []
