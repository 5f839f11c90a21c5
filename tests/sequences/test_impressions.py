"""The impression view against its definition, candidate by candidate."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.sequences.impressions import to_impressions
from torchrec_gr.sequences.request_batch import ITEM_AGE, NO_AGE, NO_TIME, RequestBatch

NUM_HISTORY = [3, 0, 2, 1]
NUM_CANDIDATES = [2, 1, 0, 3]
HISTORY_TIMES = [10, 20, 30, 10, 20, NO_TIME]
# Candidates of one request at different times: one is at an event's time, one before all of them.
CANDIDATE_TIMES = [30, 31, 5, 10, NO_TIME + 1, 50]


def request_batch(num_tasks: int = 1) -> RequestBatch:
    return RequestBatch(
        ids=KeyedJaggedTensor(
            keys=["user", "seen", "seen_tag", "item"],
            values=torch.tensor(
                [
                    *[1, 2, 3, 4],
                    *[11, 12, 13, 31, 32, 41],
                    *[21, 22, 23, 51, 52, 61],
                    *[71, 72, 73, 74, 75, 76],
                ]
            ),
            lengths=torch.tensor(
                [1, 1, 1, 1] + NUM_HISTORY * 2 + NUM_CANDIDATES, dtype=torch.int32
            ),
        ),
        contextual=["user"],
        history=["seen", "seen_tag"],
        candidates=["item"],
        negatives=[],
        num_candidates=torch.tensor(NUM_CANDIDATES),
        history_times=torch.tensor(HISTORY_TIMES),
        candidate_times=torch.tensor(CANDIDATE_TIMES),
        num_static=torch.zeros(4, dtype=torch.int64),
        user_ids=torch.tensor([100, 200, 300, 400]),
        source_rows=torch.tensor([5, 3, 9, 8, 7, 6]),
        dense_contextual=torch.tensor([[0.1], [0.2], [0.3], [0.4]]),
        dense_candidates=torch.arange(6.0)[:, None],
        labels=torch.arange(6 * num_tasks).reshape(6, num_tasks) % 2.0,
    )


def test_each_candidate_gets_what_it_could_have_known() -> None:
    batch = to_impressions(request_batch())
    ids = {key: rows.to_dense() for key, rows in batch.sparse_features.to_dict().items()}
    assert list(ids) == ["user", "item", "seen", "seen_tag"]
    as_lists = {key: [row.tolist() for row in rows] for key, rows in ids.items()}
    assert as_lists["user"] == [[1], [1], [2], [4], [4], [4]]
    assert as_lists["item"] == [[71], [72], [73], [74], [75], [76]]
    # Strictly before: the event at 30 is unknown at 30, known at 31; one without a time is known.
    assert as_lists["seen"] == [[11, 12], [11, 12, 13], [], [41], [41], [41]]
    assert as_lists["seen_tag"] == [[21, 22], [21, 22, 23], [], [61], [61], [61]]
    assert batch.user_ids.tolist() == [100, 100, 200, 400, 400, 400]
    assert batch.source_rows.tolist() == [5, 3, 9, 8, 7, 6]
    assert batch.weights.tolist() == [1.0] * 6
    assert batch.sparse_features.lengths().dtype == torch.int32


def test_dense_features_begin_with_the_length_of_the_known_history() -> None:
    dense = to_impressions(request_batch()).dense_features
    lengths = [2, 3, 0, 1, 1, 1]
    expected = [
        [math.log1p(n), context, own]
        for n, context, own in zip(lengths, [0.1, 0.1, 0.2, 0.4, 0.4, 0.4], range(6), strict=True)
    ]
    torch.testing.assert_close(dense, torch.tensor(expected))


def test_a_later_event_is_not_in_the_view() -> None:
    """An event is added to the first request at the first candidate's time, and one after it."""
    request = request_batch()
    later = dataclasses.replace(
        request,
        ids=KeyedJaggedTensor(
            keys=["user", "seen", "seen_tag", "item"],
            values=torch.tensor(
                [
                    1,
                    2,
                    3,
                    4,
                    11,
                    12,
                    13,
                    98,
                    99,
                    31,
                    32,
                    41,
                    21,
                    22,
                    23,
                    96,
                    97,
                    51,
                    52,
                    61,
                    71,
                    72,
                    73,
                    74,
                    75,
                    76,
                ]
            ),
            lengths=torch.tensor([1, 1, 1, 1] + [5, 0, 2, 1] * 2 + NUM_CANDIDATES),
        ),
        history_times=torch.tensor([10, 20, 30, 31, 40, 10, 20, NO_TIME]),
    )
    ours, theirs = to_impressions(request), to_impressions(later)
    assert ours.sparse_features.values().equal(theirs.sparse_features.values())
    assert ours.dense_features.equal(theirs.dense_features)


@pytest.mark.parametrize("num_tasks", [1, 2])
def test_labels_keep_their_tasks(num_tasks: int) -> None:
    request = request_batch(num_tasks)
    batch = to_impressions(request)
    assert request.labels is not None
    expected = request.labels[:, 0] if num_tasks == 1 else request.labels
    assert batch.labels.equal(expected)
    assert batch.weights.shape == (6,)


@pytest.mark.parametrize("num_tasks", [1, 2])
def test_rows_that_fill_up_are_empty_and_weigh_nothing(num_tasks: int) -> None:
    request = request_batch(num_tasks)
    plain, padded = to_impressions(request), to_impressions(request, num_rows=8)
    assert padded.weights.tolist() == [1.0] * 6 + [0.0] * 2
    assert padded.source_rows[6:].tolist() == padded.user_ids[6:].tolist() == [-1, -1]
    assert padded.dense_features[:6].equal(plain.dense_features)
    assert padded.dense_features[6:].eq(0).all()
    assert padded.labels[:6].equal(plain.labels)
    assert padded.sparse_features.stride() == 8
    for key, theirs in plain.sparse_features.to_dict().items():
        ours = padded.sparse_features[key]
        assert ours.values().equal(theirs.values())
        assert ours.lengths().tolist() == [*theirs.lengths().tolist(), 0, 0]


@pytest.mark.parametrize("num_rows", [6, 8])
def test_item_ages_are_one_value_a_row_under_a_key_of_their_own(num_rows: int) -> None:
    request = request_batch()
    ages = torch.tensor([3, 0, NO_AGE, 7, 8, 9])
    plain = to_impressions(request, num_rows=num_rows)
    aged = to_impressions(dataclasses.replace(request, item_ages=ages), num_rows=num_rows)
    assert aged.sparse_features.keys() == [*plain.sparse_features.keys(), ITEM_AGE]
    assert aged.sparse_features[ITEM_AGE].values().equal(ages)
    lengths = [1] * 6 + [0] * (num_rows - 6)
    assert aged.sparse_features[ITEM_AGE].lengths().tolist() == lengths
    for key in plain.sparse_features.keys():  # noqa: SIM118
        ours, theirs = aged.sparse_features[key], plain.sparse_features[key]
        assert ours.values().equal(theirs.values())
        assert ours.lengths().equal(theirs.lengths())
    assert aged.sparse_features.lengths().dtype == torch.int32


def test_what_cannot_be_viewed_is_refused() -> None:
    with pytest.raises(ValueError, match="no labels"):
        to_impressions(dataclasses.replace(request_batch(), labels=None))
    with pytest.raises(ValueError, match="6 candidates do not fit into num_rows=5"):
        to_impressions(request_batch(), num_rows=5)
    taken = dataclasses.replace(
        request_batch(), contextual=[ITEM_AGE], item_ages=torch.zeros(6, dtype=torch.int64)
    )
    taken.ids._keys[0] = ITEM_AGE
    with pytest.raises(ValueError, match="'item_age_days' is the key of the candidates' ages"):
        to_impressions(taken)
