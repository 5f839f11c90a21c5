"""The pretraining loader: whose events, in which order, with which negatives."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from tests.data.clicks import click_schema, clicks, prepare_clicks
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.sequence_loader import SequenceLoader
from torchrec_gr.sequences.request_batch import RequestBatch

TEST_FROM = 40 * 3600


@pytest.fixture
def log(tmp_path: Path) -> PreparedLog:
    """20 users, some with a single training event."""
    return prepare_clicks(tmp_path, clicks(num_users=20))


def loader(log: PreparedLog, **changes: object) -> SequenceLoader:
    settings = {"batch_size": 4, "num_negatives": 6, "seed": 0, **changes}
    return SequenceLoader(log, **settings)  # type: ignore[arg-type]


def read(batch: RequestBatch) -> dict[int, tuple[list[int], list[int]]]:
    """User -> rows of the item table, and times."""
    lengths = batch.num_history().tolist()
    times = batch.history_times.split(lengths)
    items = batch.ids["history_item"].to_dense()
    return {
        user: (items[i].tolist(), times[i].tolist())
        for i, user in enumerate(batch.user_ids.tolist())
        if lengths[i]
    }


@pytest.mark.parametrize("splits", [("train",), ("train", "test")])
def test_each_user_s_newest_events_are_one_sequence(
    log: PreparedLog, tmp_path: Path, splits: tuple[str, ...]
) -> None:
    rows = clicks(num_users=20)
    allowed = rows if "test" in splits else rows[rows.time < TEST_FROM]
    sequences = loader(log, splits=splits)
    found: dict[int, tuple[list[int], list[int]]] = {}
    for batch in sequences:
        assert not found.keys() & read(batch).keys()
        found |= read(batch)
    items = log.vocabularies["item"]
    expected, skipped, truncated = {}, 0, 0
    for place, user in enumerate(log.raw_users.tolist()):
        events = allowed[allowed.user == user].sort_values("time", kind="stable")
        skipped += len(events) < 2
        truncated += len(events) > 4
        if len(events) >= 2:
            newest = events.tail(4)
            expected[place] = (items.rows(newest.item.to_numpy()).tolist(), newest.time.tolist())
    assert found == expected
    assert skipped or "test" in splits
    assert truncated
    assert sequences.num_units == len(expected)
    assert sequences.num_events == sum(len(times) for _, times in expected.values())
    assert sequences.counts == {
        "skipped": skipped,
        "truncated": truncated,
        "sequences": sequences.num_units,
        "events": sequences.num_events,
        "steps": sequences.num_steps,
    }


def test_no_event_of_the_test_window_is_read_in_training(log: PreparedLog) -> None:
    for batch in loader(log):
        assert (batch.history_times < TEST_FROM).all()


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_any_number_of_ranks_reads_the_same_global_batches(
    log: PreparedLog, world_size: int
) -> None:
    """Seven ranks share four sequences: some have none, and still step and draw alike."""
    ranks = [loader(log, rank=rank, world_size=world_size) for rank in range(world_size)]
    for alone, *of_step in zip(loader(log), *ranks, strict=True):
        together: dict[int, tuple[list[int], list[int]]] = {}
        for batch in of_step:
            assert batch.num_requests >= 1
            negatives = batch.ids["negative_history_item"]
            assert negatives.values().equal(alone.ids["negative_history_item"].values())
            assert negatives.lengths().tolist() == [6, *[0] * (batch.num_requests - 1)]
            together |= read(batch)
        assert list(together.items()) == list(read(alone).items())


def test_negatives_are_uniform_over_the_vocabulary_without_row_0(log: PreparedLog) -> None:
    num_rows = log.table_rows["item"]
    batch = next(iter(loader(log, num_negatives=20_000)))
    drawn = np.bincount(batch.ids["negative_history_item"].values(), minlength=num_rows)
    assert drawn.size == num_rows
    assert drawn[0] == 0
    mean = 20_000 / (num_rows - 1)
    assert abs(drawn[1:] - mean).max() < 5 * mean**0.5


def test_order_and_negatives_change_with_epoch_step_and_seed(log: PreparedLog) -> None:
    def epochs(seed: int) -> list[list[tuple[list[int], list[int]]]]:
        sequences = loader(log, seed=seed)
        return [
            [(b.user_ids.tolist(), b.ids["negative_history_item"].values().tolist()) for b in epoch]
            for epoch in (sequences, sequences)
        ]

    first, second = epochs(0)
    assert epochs(0) == [first, second]
    other = epochs(1)[0]
    orders = {str([users for users, _ in epoch]) for epoch in (first, second, other)}
    assert len(orders) == 3
    draws = [str(drawn) for epoch in (first, second, other) for _, drawn in epoch]
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("cut", ["newest", "segments", "sliding"])
def test_going_on_at_any_step_gives_the_same_batches(log: PreparedLog, cut: str) -> None:
    def words(sequences: SequenceLoader) -> list[tuple[list[int], list[int]]]:
        return [(b.user_ids.tolist(), b.ids.values().tolist()) for b in sequences]

    whole = loader(log, cut=cut)
    expected = [words(whole) for _ in range(2)]
    for epoch, step in [(e, s) for e in range(2) for s in range(whole.num_steps + 1)]:
        resumed = loader(log, cut=cut)
        resumed.load_state_dict(whole.state_at(epoch, step))
        assert words(resumed) == expected[epoch][step:]
    with pytest.raises(ValueError, match="num_negatives='6', this run has '7'"):
        loader(log, cut=cut, num_negatives=7).load_state_dict(whole.state_dict())


def test_a_position_under_another_cut_is_refused(log: PreparedLog) -> None:
    state = loader(log).state_dict()
    with pytest.raises(ValueError, match="cut='newest', this run has 'sliding'"):
        loader(log, cut="sliding").load_state_dict(state)
    with pytest.raises(ValueError, match="segment_length='4', this run has '5'"):
        loader(log, segment_length=5).load_state_dict(state)


def read_segments(batch: RequestBatch) -> list[tuple[int, list[int], list[int]]]:
    """User, rows of the item table, and times of each request that has events."""
    lengths = batch.num_history().tolist()
    items = batch.ids["history_item"].to_dense()
    times = batch.history_times.split(lengths)
    return [
        (user, items[i].tolist(), times[i].tolist())
        for i, user in enumerate(batch.user_ids.tolist())
        if lengths[i]
    ]


@pytest.mark.parametrize("cut", ["segments", "sliding"])
@pytest.mark.parametrize("splits", [("train",), ("train", "test")])
def test_segments_hold_every_event_of_every_user_once(
    log: PreparedLog, cut: str, splits: tuple[str, ...]
) -> None:
    rows = clicks(num_users=20)
    allowed = rows if "test" in splits else rows[rows.time < TEST_FROM]
    expected, segmented = {}, 0
    for place, user in enumerate(log.raw_users.tolist()):
        events = allowed[allowed.user == user].sort_values("time", kind="stable")
        segmented += len(events) > 3
        if len(events) >= 2:
            items = log.vocabularies["item"].rows(events.item.to_numpy()).tolist()
            expected[place] = sorted(zip(events.time.tolist(), items, strict=True))
    sequences = loader(log, cut=cut, segment_length=3, splits=splits)
    assert sequences.counts["segmented"] == segmented > 0
    assert "truncated" not in sequences.counts
    for _ in range(3):
        sequences.counts["events"] = sequences.counts["sequences"] = 0
        found: dict[int, list[tuple[int, int]]] = {}
        for user, items, times in [s for batch in sequences for s in read_segments(batch)]:
            assert 2 <= len(items) <= 3
            assert times == sorted(times)
            found.setdefault(user, []).extend(zip(times, items, strict=True))
        assert {user: sorted(events) for user, events in found.items()} == expected
        assert sequences.counts["events"] == sequences.num_events
        assert sequences.counts["sequences"] == sequences.num_units


def test_sliding_segments_are_others_in_every_epoch(log: PreparedLog) -> None:
    def segments(cut: str) -> list[list[tuple[int, list[int], list[int]]]]:
        sequences = loader(log, cut=cut, splits=("train", "test"))
        return [sorted(s for batch in sequences for s in read_segments(batch)) for _ in range(3)]

    first, second, third = segments("segments")
    assert first == second == third
    first, second, third = segments("sliding")
    assert first != second != third != first
    assert segments("sliding") == [first, second, third]


@pytest.mark.parametrize("cut", ["segments", "sliding"])
@pytest.mark.parametrize("world_size", [2, 7])
def test_ranks_share_the_segments(log: PreparedLog, cut: str, world_size: int) -> None:
    def make(**rank: int) -> SequenceLoader:
        return loader(log, cut=cut, segment_length=3, batch_size=5, **rank)

    ranks = [make(rank=rank, world_size=world_size) for rank in range(world_size)]
    alone = make()
    for _ in range(2):
        for whole, *of_step in zip(alone, *ranks, strict=True):
            together = [segment for batch in of_step for segment in read_segments(batch)]
            assert together == read_segments(whole)


def test_without_negatives_there_is_no_key_of_them(log: PreparedLog) -> None:
    batch = next(iter(loader(log, num_negatives=0)))
    assert batch.negatives == []
    assert batch.ids.keys() == ["history_item", "history_tag"]


def test_every_item_can_be_a_negative_of_every_step(log: PreparedLog) -> None:
    for batch in loader(log, num_negatives=None):
        rows = batch.ids["negative_history_item"].values().tolist()
        assert rows == list(range(1, log.table_rows["item"]))


def test_a_side_target_has_its_rows_without_negatives_too(tmp_path: Path) -> None:
    log = prepare_clicks(tmp_path, schema=click_schema(side_target="history_tag"))
    batch = next(iter(loader(log, num_negatives=0)))
    assert batch.negatives == ["negative_history_tag"]
    rows = batch.ids["negative_history_tag"].values().tolist()
    assert rows == list(range(1, log.table_rows["tag"]))


def read_steps(of_ranks: list[SequenceLoader]) -> list[list[tuple[int, list[int], list[int]]]]:
    """The sequences of each step, those of all ranks together."""
    return [
        [segment for batch in of_step for segment in read_segments(batch)]
        for of_step in zip(*of_ranks, strict=True)
    ]


@pytest.mark.parametrize("cut", ["newest", "sliding"])
def test_stochastic_length_cuts_long_sequences_to_the_threshold(log: PreparedLog, cut: str) -> None:
    settings = {"cut": cut, "segment_length": 7, "splits": ("train", "test")}
    whole = loader(log, **settings)
    random = loader(log, **settings, stochastic_length=1.2)
    threshold = int(7**0.6)
    num_cut = num_long_whole = 0
    for _ in range(4):
        for batch, of in zip(random, whole, strict=True):
            for (user, items, times), (same_user, *all_events) in zip(
                read_segments(batch), read_segments(of), strict=True
            ):
                assert user == same_user
                events, known = zip(items, times, strict=True), list(zip(*all_events, strict=True))
                places = [known.index(event) for event in events]
                assert places == sorted(places)
                assert len(places) in (len(known), threshold)
                num_cut += len(places) < len(known)
                num_long_whole += len(places) == len(known) > threshold
    assert num_cut
    assert num_long_whole
    assert random.counts["events"] < whole.counts["events"]
    assert random.counts["sequences"] == whole.counts["sequences"]


@pytest.mark.parametrize("world_size", [1, 3, 7])
def test_stochastic_length_is_alike_on_any_number_of_ranks_and_after_a_restart(
    log: PreparedLog, world_size: int
) -> None:
    def make(stochastic_length: float = 1.3, **rank: int) -> SequenceLoader:
        return loader(log, segment_length=6, stochastic_length=stochastic_length, **rank)

    alone = make()
    expected = [read_steps([alone]) for _ in range(2)]
    first, second = (sorted(itertools.chain(*steps)) for steps in expected)
    assert first != second
    ranks = [make(rank=rank, world_size=world_size) for rank in range(world_size)]
    for epoch, step in [(e, s) for e in range(2) for s in range(alone.num_steps + 1)]:
        for of_rank in ranks:
            of_rank.load_state_dict(alone.state_at(epoch, step))
        assert read_steps(ranks) == expected[epoch][step:]
    with pytest.raises(ValueError, match=r"stochastic_length='1.3', this run has '1.4'"):
        make(1.4).load_state_dict(alone.state_dict())


def test_settings_that_cannot_be_served_are_refused(log: PreparedLog, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'train'"):
        loader(log, splits=("trian",))
    with pytest.raises(ValueError, match="num_negatives must be at least 0"):
        loader(log, num_negatives=-1)
    with pytest.raises(ValueError, match="did you mean 'segments'"):
        loader(log, cut="segment")
    with pytest.raises(ValueError, match="segment_length must be at least 3"):
        loader(log, cut="segments", segment_length=2)
    with pytest.raises(ValueError, match="alpha must be above 1"):
        loader(log, stochastic_length=2.5)
    with pytest.raises(ValueError, match="leaves no next event"):
        loader(log, segment_length=3, stochastic_length=1.1)
    with pytest.raises(ValueError, match="set the schema's `target`"):
        loader(prepare_clicks(tmp_path, schema=click_schema(target=None)))
