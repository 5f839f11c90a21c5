"""The loader: which rows come when, on which rank, and what each may know."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.data.clicks import click_schema, clicks, prepare_clicks
from torchrec_gr.data.loader import RequestLoader
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.sequences.request_batch import ImpressionBatch, RequestBatch

MakeLog = Callable[..., PreparedLog]

HOUR = 3600
TEST_FROM = 40 * HOUR


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several windows of several blocks in a log of some dozens of rows."""
    monkeypatch.setattr("torchrec_gr.data.split_rows.WINDOW_ROWS", 20)


@pytest.fixture
def make_log(tmp_path: Path) -> MakeLog:
    return functools.partial(prepare_clicks, tmp_path)


def source_rows(batches: Iterable[RequestBatch | ImpressionBatch]) -> list[list[int]]:
    return [batch.source_rows.tolist() for batch in batches]


def flat(lists: Iterable[list[int]]) -> list[int]:
    return [value for values in lists for value in values]


def histories(
    rows: pd.DataFrame, moments: Iterable[int], *, newest: int = 4
) -> Iterator[list[int]]:
    """Each row's history from the definition: its user's items strictly before a moment."""
    for user, moment in zip(rows.user, moments, strict=True):
        known = rows[(rows.user == user) & (rows.time < moment)]
        yield known.sort_values("time", kind="stable").item.tolist()[-newest:]


def read_items(loader: RequestLoader) -> dict[int, list[int]]:
    """Source row -> raw items of its history (0 stands for out of vocabulary)."""
    words = loader.log.vocabularies["item"]
    found = {}
    for batch in loader:
        assert isinstance(batch, RequestBatch)
        items = batch.ids["history_item"]
        for row, of_row in zip(batch.source_rows.tolist(), items.to_dense(), strict=True):
            found[row] = [int(words.raw_ids[i - 1]) if i else -1 for i in of_row.tolist()]
    return found


def in_vocabulary(loader: RequestLoader, items: list[int]) -> list[int]:
    known = set(loader.log.vocabularies["item"].raw_ids.tolist())
    return [item if item in known else -1 for item in items]


@pytest.mark.parametrize("view", ["requests", "impressions"])
def test_file_order_without_a_seed(make_log: MakeLog, view: str) -> None:
    rows = clicks()
    loader = RequestLoader(make_log(rows), "train", batch_size=8, view=view)  # type: ignore[arg-type]
    expected = np.flatnonzero(rows.time < TEST_FROM).tolist()
    for _ in range(2):
        assert flat(source_rows(loader)) == expected
    assert loader.num_rows == len(expected)
    assert loader.num_steps == -(-len(expected) // 8)


def test_a_seed_decides_the_order_of_each_epoch(make_log: MakeLog) -> None:
    log = make_log()
    first, again = (RequestLoader(log, "train", batch_size=8, seed=3) for _ in range(2))
    other = RequestLoader(log, "train", batch_size=8, seed=4)
    epochs = [flat(source_rows(first)) for _ in range(3)]
    assert [flat(source_rows(again)) for _ in range(3)] == epochs
    orders = [*epochs, flat(source_rows(other))]
    assert len({tuple(order) for order in orders}) == 4
    assert len({tuple(sorted(order)) for order in orders}) == 1
    assert len(set(epochs[0])) == len(epochs[0]) == log.num_rows("train")


@pytest.mark.parametrize("world_size", [2, 3, 13])
@pytest.mark.parametrize("seed", [None, 5])
def test_any_number_of_ranks_reads_the_same_global_batches(
    make_log: MakeLog, world_size: int, seed: int | None
) -> None:
    """13 ranks share batches of 11, and the last batch is smaller: some ranks have no row."""
    log = make_log()
    alone = source_rows(RequestLoader(log, "train", batch_size=11, seed=seed))
    ranks = [
        source_rows(
            RequestLoader(log, "train", batch_size=11, seed=seed, rank=r, world_size=world_size)
        )
        for r in range(world_size)
    ]
    assert {len(steps) for steps in ranks} == {len(alone)}
    together = [flat(of_step) for of_step in zip(*ranks, strict=True)]
    assert together == alone
    for of_step in zip(*ranks, strict=True):
        sizes = [len(rows) for rows in of_step]
        assert max(sizes) - min(sizes) <= 1


def test_a_rank_without_rows_gets_one_empty_request(make_log: MakeLog) -> None:
    log = make_log()
    loader = RequestLoader(log, "train", batch_size=1, rank=0, world_size=2)
    batch = next(iter(loader))
    assert isinstance(batch, RequestBatch)
    assert batch.num_requests == batch.ids.stride() == 1
    assert batch.num_candidates.tolist() == batch.num_history().tolist() == [0]
    assert batch.ids["hour"].values().tolist() == [0]
    for rows, values in (
        (1, batch.dense_contextual),
        (0, batch.dense_candidates),
        (0, batch.labels),
    ):
        assert values is not None
        assert values.shape == (rows, 1)
    assert batch.user_ids.tolist() == [-1]


def test_a_rank_without_rows_gets_one_impression_of_no_weight(make_log: MakeLog) -> None:
    log = make_log()
    batch = next(iter(RequestLoader(log, "train", batch_size=1, view="impressions", world_size=2)))
    assert isinstance(batch, ImpressionBatch)
    assert batch.weights.tolist() == [0.0]
    assert batch.sparse_features.stride() == 1
    assert batch.sparse_features.values().numel() == 0


@pytest.mark.parametrize("world_size", [2, 3, 13])
def test_padding_gives_all_ranks_one_count_and_adds_no_weight(
    make_log: MakeLog, world_size: int
) -> None:
    log = make_log()
    alone = source_rows(RequestLoader(log, "train", batch_size=11, seed=1))
    ranks = [
        RequestLoader(
            log,
            "train",
            batch_size=11,
            view="impressions",
            seed=1,
            rank=rank,
            world_size=world_size,
            pad=True,
        )
        for rank in range(world_size)
    ]
    for step, of_step in enumerate(zip(*ranks, strict=True)):
        strides = {batch.sparse_features.stride() for batch in of_step}
        assert strides == {-(-len(alone[step]) // world_size)}
        kept = flat(batch.source_rows[batch.weights > 0].tolist() for batch in of_step)
        assert kept == alone[step]
        assert sum(batch.weights.sum().item() for batch in of_step) == len(alone[step])


@pytest.mark.parametrize("seed", [None, 7])
def test_going_on_at_any_step_gives_the_same_batches(make_log: MakeLog, seed: int | None) -> None:
    log = make_log()

    def loader() -> RequestLoader:
        return RequestLoader(log, "train", batch_size=9, seed=seed)

    whole = loader()
    expected = [source_rows(whole) for _ in range(2)]
    for epoch, step in [(e, s) for e in range(2) for s in range(whole.num_steps + 1)]:
        resumed = loader()
        resumed.load_state_dict(whole.state_at(epoch, step))
        assert source_rows(resumed) == expected[epoch][step:]
        assert (resumed.epoch, resumed.step) == (epoch + 1, 0)


def test_the_position_counts_batches_handed_out(make_log: MakeLog) -> None:
    loader = RequestLoader(make_log(), "train", batch_size=9, seed=0)
    batches = iter(loader)
    for taken in range(1, 4):
        next(batches)
        assert (loader.epoch, loader.step) == (0, taken)
    rest = source_rows(batches)
    loader.seek(0, 0)
    assert source_rows(loader)[3:] == rest


def test_going_on_decodes_no_window_that_was_read(
    make_log: MakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make_log()
    decoded = []
    read_block = type(log).read_block
    monkeypatch.setattr(
        type(log), "read_block", lambda log, i: decoded.append(i) or read_block(log, i)
    )
    loader = RequestLoader(log, "train", batch_size=9, seed=0)
    loader.seek(0, loader.num_steps - 1)
    assert len(source_rows(loader)) == 1
    assert 0 < len(decoded) < len(log.blocks) // 2


def test_a_split_of_one_window_is_decoded_once(
    make_log: MakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchrec_gr.data.split_rows.WINDOW_ROWS", 1000)
    loader = RequestLoader(make_log(), "train", batch_size=9, seed=0)
    first = flat(source_rows(loader))
    monkeypatch.setattr(type(loader.log), "read_block", None)
    second = flat(source_rows(loader))
    assert first != second
    assert sorted(first) == sorted(second)


def test_a_position_under_other_settings_is_refused(make_log: MakeLog) -> None:
    log = make_log()
    state = RequestLoader(log, "train", batch_size=9, seed=0).state_dict()
    with pytest.raises(ValueError, match="seed='0', this run has '1'"):
        RequestLoader(log, "train", batch_size=9, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="batch_size"):
        RequestLoader(log, "train", batch_size=8, seed=0).load_state_dict(state)
    other = make_log(clicks(num_rows=91))
    with pytest.raises(ValueError, match="same log"):
        RequestLoader(other, "train", batch_size=9, seed=0).load_state_dict(state)
    RequestLoader(log, "train", batch_size=9, seed=0, world_size=4).load_state_dict(state)


@pytest.mark.parametrize("seed", [None, 2])
@pytest.mark.parametrize("split", ["train", "test"])
def test_history_as_of_exposure_is_strictly_before_the_row(
    make_log: MakeLog, seed: int | None, split: str
) -> None:
    """The log is in no order, and half of its times are shared: ties are not history."""
    rows = clicks()
    loader = RequestLoader(make_log(rows), split, batch_size=16, seed=seed)
    expected = dict(enumerate(histories(rows, rows.time)))
    found = read_items(loader)
    assert len(found) == loader.num_rows > 0
    for row, items in found.items():
        assert items == in_vocabulary(loader, expected[row]), row


def test_history_as_of_day_ends_where_the_day_begins_on_the_log_s_clock(
    make_log: MakeLog,
) -> None:
    rows = clicks()
    log = make_log(rows, click_schema(utc_offset_hours=5.5))
    loader = RequestLoader(log, "test", batch_size=16, history_as_of="day")
    offset = 5.5 * HOUR
    begins = [int((t + offset) // (24 * HOUR) * (24 * HOUR) - offset) for t in rows.time]
    expected = dict(enumerate(histories(rows, begins)))
    for row, items in read_items(loader).items():
        assert items == in_vocabulary(loader, expected[row]), row


def test_rows_of_one_user_and_day_stay_together(
    make_log: MakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have one history, which is then encoded once; the other rows are still shuffled."""
    monkeypatch.setattr("torchrec_gr.data.split_rows.WINDOW_ROWS", 1000)
    rows = clicks()
    log = make_log(rows)
    loader = RequestLoader(log, "train", batch_size=9, history_as_of="day", seed=0)
    order = flat(source_rows(loader))
    days = [(rows.user[row], rows.time[row] // (24 * HOUR)) for row in order]
    changes = sum(before != after for before, after in itertools.pairwise(days))
    assert changes == len(set(days)) - 1
    assert sorted(order) == sorted(flat(source_rows(RequestLoader(log, "train", batch_size=9))))
    loader.seek(1, 0)
    assert flat(source_rows(loader)) != order


def test_history_as_of_split_is_frozen_where_the_test_begins(make_log: MakeLog) -> None:
    rows = clicks()
    log = make_log(rows)
    expected = dict(enumerate(histories(rows, rows.time.clip(upper=TEST_FROM))))
    for split in ("train", "test"):
        loader = RequestLoader(log, split, batch_size=16, history_as_of="split")
        for row, items in read_items(loader).items():
            assert items == in_vocabulary(loader, expected[row]), row
    streamed = read_items(RequestLoader(log, "test", batch_size=16))
    assert streamed != read_items(RequestLoader(log, "test", batch_size=16, history_as_of="split"))


@pytest.mark.parametrize("view", ["requests", "impressions"])
@pytest.mark.parametrize("planted_at", [10 * HOUR, 10 * HOUR + 1, 30 * HOUR])
def test_an_event_at_or_after_a_row_changes_nothing_of_it(
    make_log: MakeLog, view: str, planted_at: int
) -> None:
    """A later event is planted; what the row at 10 h says must not move."""
    hours = np.arange(2, 11)
    rows = clicks(num_rows=len(hours), num_users=1).assign(time=hours * HOUR, item=hours)
    last = len(rows) - 1
    planted = rows.iloc[[0]].assign(time=planted_at, item=5, click=1, price=99.0)

    def read(rows: pd.DataFrame) -> list[torch.Tensor]:
        loader = RequestLoader(make_log(rows), "train", batch_size=1, view=view)  # type: ignore[arg-type]
        (batch,) = (b for b in loader if b.source_rows.tolist() == [last])
        if isinstance(batch, RequestBatch):
            assert batch.history_times.tolist() == [h * HOUR for h in (6, 7, 8, 9)]
            assert batch.dense_history is not None
            return [batch.ids.values(), batch.ids.lengths(), batch.dense_history]
        return [
            batch.sparse_features.values(),
            batch.sparse_features.lengths(),
            batch.dense_features,
        ]

    before, after = read(rows), read(pd.concat([rows, planted]))
    for ours, theirs in zip(before, after, strict=True):
        assert ours.equal(theirs)


def test_an_earlier_event_that_comes_later_in_the_file_is_history(make_log: MakeLog) -> None:
    rows = clicks(num_rows=3, num_users=1).assign(time=[9 * HOUR, 8 * HOUR, 7 * HOUR])
    batch = next(iter(RequestLoader(make_log(rows), "train", batch_size=1)))
    assert isinstance(batch, RequestBatch)
    assert batch.history_times.tolist() == [7 * HOUR, 8 * HOUR]


def test_counts_say_what_was_read(make_log: MakeLog) -> None:
    rows = clicks()
    loader = RequestLoader(make_log(rows), "train", batch_size=9, seed=0)
    list(loader)
    train = [i for i, t in enumerate(rows.time) if t < TEST_FROM]
    lengths = [len(h) for h in histories(rows, rows.time, newest=1000)]
    assert loader.counts == {
        "rows": len(train),
        "steps": loader.num_steps,
        "empty_histories": sum(lengths[i] == 0 for i in train),
        "truncated_histories": sum(lengths[i] > 4 for i in train),
    }
    assert all(loader.counts.values())


def test_settings_that_cannot_be_served_are_refused(make_log: MakeLog) -> None:
    log = make_log()
    with pytest.raises(ValueError, match="unknown split 'tran': did you mean 'train'"):
        RequestLoader(log, "tran", batch_size=1)
    with pytest.raises(ValueError, match="did you mean 'exposure'"):
        RequestLoader(log, "train", batch_size=1, history_as_of="exposur")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="impressions"):
        RequestLoader(log, "train", batch_size=1, pad=True)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        RequestLoader(log, "train", batch_size=0)
    with pytest.raises(ValueError, match="rank must be in"):
        RequestLoader(log, "train", batch_size=1, rank=2, world_size=2)
    with pytest.raises(ValueError, match="seed"):
        RequestLoader(log, "train", batch_size=1, seed=-1)
    with pytest.raises(ValueError, match="step in 0"):
        RequestLoader(log, "train", batch_size=1).seek(0, 10_000)
    ordered = make_log(schema=click_schema(time_unit="order"))
    with pytest.raises(ValueError, match="knows only an order"):
        RequestLoader(ordered, "train", batch_size=1, history_as_of="day")
