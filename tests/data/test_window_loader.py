"""The window loader: which sequences come when, and on which rank."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.data.clicks import clicks
from tests.data.conftest import MakeLog
from tests.data.window_oracle import (
    TEST_FROM,
    Sequence,
    by_rows,
    chunks_of,
    flat,
    sequences_read,
    window_schema,
)
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.window_loader import WindowLoader

pytestmark = pytest.mark.usefixtures("small_chunks")


def read_rows(loader: WindowLoader) -> list[list[int]]:
    return [batch.source_rows.tolist() for batch in loader]


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3, 13])
def test_steps_do_not_depend_on_the_number_of_ranks(
    log: PreparedLog, world_size: int, seed: int | None
) -> None:
    """Thirteen ranks share steps of a few sequences: some have none, and step nevertheless."""
    alone = WindowLoader(log, "train", batch_tokens=60, seed=seed)
    expected = read_rows(alone)
    assert sorted(flat(expected)) == np.flatnonzero(clicks().time < TEST_FROM).tolist()
    assert len(expected) == alone.num_steps
    assert all(expected)
    ranks = [
        WindowLoader(log, "train", batch_tokens=60, seed=seed, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    for rows, *of_step in zip(expected, *ranks, strict=True):
        assert sorted(flat(batch.source_rows.tolist() for batch in of_step)) == sorted(rows)
        tokens = [int(b.num_history().sum() + b.num_candidates.sum()) for b in of_step]
        longest = max(int((b.num_history() + b.num_candidates).max()) for b in of_step)
        assert max(abs(share - sum(tokens) / world_size) for share in tokens) <= longest
    summed = sum((rank.counts for rank in ranks), Counter())
    assert {**summed, "steps": alone.num_steps} == dict(+alone.counts)


def test_a_rank_without_sequences_gets_one_empty_request(log: PreparedLog) -> None:
    loader = WindowLoader(log, "train", batch_tokens=1, rank=1, world_size=2)
    batches = [batch for batch in loader if not len(batch.source_rows)]
    assert batches
    batch = batches[0]
    assert batch.num_requests == batch.ids.stride() == 1
    assert batch.num_candidates.tolist() == batch.num_history().tolist() == [0]
    assert batch.num_static.tolist() == [0]
    assert batch.user_ids.tolist() == [-1]
    assert batch.dense_candidates is not None
    assert batch.dense_candidates.shape == (0, 2)


@pytest.mark.parametrize("stochastic_length", [None, 1.3])
@pytest.mark.parametrize("world_sizes", [(1, 1), (2, 3)])
def test_going_on_at_any_step_and_world_size_gives_the_same_batches(
    make_log: MakeLog, world_sizes: tuple[int, int], stochastic_length: float | None
) -> None:
    log = make_log(schema=window_schema(max_history=16))

    def loaders(world_size: int) -> list[WindowLoader]:
        return [
            WindowLoader(
                log,
                "train",
                batch_tokens=60,
                seed=7,
                stochastic_length=stochastic_length,
                rank=rank,
                world_size=world_size,
            )
            for rank in range(world_size)
        ]

    def steps(of_ranks: list[WindowLoader]) -> list[list[Sequence]]:
        return [
            sorted(sequence for sequence in sequences_read(of_step) if sequence.rows)
            for of_step in zip(*of_ranks, strict=True)
        ]

    whole = loaders(world_sizes[0])
    expected = [steps(whole) for _ in range(2)]
    assert expected[0] != expected[1]
    resumed = loaders(world_sizes[1])
    for epoch, step in [(e, s) for e in (1, 0) for s in range(whole[0].num_steps + 1)]:
        for loader in resumed:
            loader.load_state_dict(whole[0].state_at(epoch, step))
        assert steps(resumed) == expected[epoch][step:]
        assert (resumed[0].epoch, resumed[0].step) == (epoch + 1, 0)


def test_a_seed_decides_the_order_of_each_epoch_and_no_seed_is_the_log_s(
    log: PreparedLog,
) -> None:
    first, again = (WindowLoader(log, "train", batch_tokens=60, seed=3) for _ in range(2))
    other = WindowLoader(log, "train", batch_tokens=60, seed=4)
    epochs = [flat(read_rows(first)) for _ in range(3)]
    assert [flat(read_rows(again)) for _ in range(3)] == epochs
    orders = [*epochs, flat(read_rows(other))]
    assert len({tuple(order) for order in orders}) == 4
    assert len({tuple(sorted(order)) for order in orders}) == 1
    in_order = WindowLoader(log, "train", batch_tokens=60)
    once, twice = (list(sequences_read(in_order)) for _ in range(2))
    assert once == twice
    chunks = list(chunks_of(clicks(), clicks().time < TEST_FROM))
    chunk_of = {row: place for place, chunk in enumerate(chunks) for row in chunk}
    firsts = [(chunk_of[sequence.rows[0]], sequence.rows[0]) for sequence in once]
    assert firsts == sorted(firsts)


def test_a_split_of_one_chunk_is_decoded_once(
    log: PreparedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchrec_gr.data.split_rows.WINDOW_ROWS", 1000)
    loader = WindowLoader(log, "train", batch_tokens=60, seed=0)
    monkeypatch.setattr(PreparedLog, "read_block", None)
    first, second = (flat(read_rows(loader)) for _ in range(2))
    assert first != second
    assert sorted(first) == sorted(second)


def test_going_on_decodes_no_chunk_that_was_read(
    log: PreparedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = WindowLoader(log, "train", batch_tokens=60, seed=0)
    decoded = []
    read_block = PreparedLog.read_block
    monkeypatch.setattr(
        PreparedLog, "read_block", lambda log, i, *a: decoded.append(i) or read_block(log, i, *a)
    )
    loader.seek(0, loader.num_steps - 1)
    assert len(read_rows(loader)) == 1
    assert 0 < len(decoded) < len(log.blocks) // 2


def test_a_sequence_longer_than_a_batch_is_a_step_of_its_own(
    make_log: MakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchrec_gr.data.split_rows.WINDOW_ROWS", 1000)
    rows = clicks(num_rows=60, num_users=1).assign(time=np.arange(60))
    rows.loc[50:, "user"] = np.arange(10) + 500
    loader = WindowLoader(make_log(rows), "train", batch_tokens=5, seed=0)
    steps = list(loader)
    assert loader.num_steps == len(steps) == 11
    assert all(batch.num_requests == 1 for batch in steps)
    assert sorted(batch.source_rows.numel() for batch in steps) == [1] * 10 + [50]


def test_counts_say_what_was_read(make_log: MakeLog) -> None:
    rows = clicks()
    rows.loc[0, ["user", "time"]] = 500, 0  # who has no history
    loader = WindowLoader(make_log(rows), "train", batch_tokens=60, max_candidates=3, seed=0)
    sequences = by_rows(sequences_read(loader))
    chunks = chunks_of(rows, rows.time < TEST_FROM)
    chunk_of = {row: place for place, chunk in enumerate(chunks) for row in chunk}
    windows = Counter((rows.user[s.rows[0]], chunk_of[s.rows[0]]) for s in sequences)
    lost = 0
    for sequence in sequences:
        user, end = rows.user[sequence.rows[0]], sequence.candidate_times[-1]
        lost += int(((rows.user == user) & (rows.time < end)).sum()) > len(sequence.history_times)
    assert loader.num_rows == loader.counts["rows"]
    assert loader.counts == {
        "rows": int((rows.time < TEST_FROM).sum()),
        "steps": loader.num_steps,
        "sequences": len(sequences),
        "tokens": sum(len(s.rows) + len(s.history_times) for s in sequences),
        "split_windows": sum(count > 1 for count in windows.values()),
        "truncated_histories": lost,
        "empty_histories": sum(not s.history_times for s in sequences),
    }
    assert all(loader.counts.values())


def test_a_position_under_other_settings_is_refused(log: PreparedLog) -> None:

    def loader(**changes: object) -> WindowLoader:
        return WindowLoader(log, "train", **{"batch_tokens": 60, "seed": 0, **changes})

    state = loader().state_dict()
    for name, value in (
        ("batch_tokens", 61),
        ("window_hours", 24.0),
        ("max_candidates", 3),
        ("stochastic_length", 1.5),
        ("history_as_of", "day"),
        ("seed", 1),
    ):
        with pytest.raises(ValueError, match=f"{name}="):
            loader(**{name: value}).load_state_dict(state)
    loader(world_size=4).load_state_dict(state)


def test_settings_that_cannot_be_served_are_refused(log: PreparedLog) -> None:
    for changes, message in (
        ({"batch_tokens": 0}, "batch_tokens must be at least 1"),
        ({"window_hours": 0.0}, "window_hours must be a length of time"),
        ({"max_candidates": 0}, "max_candidates must be at least 1"),
        ({"real_time_hours": -1.0}, "real_time_hours must be at least 0"),
        ({"stochastic_length": 2.5, "seed": 0}, "alpha must be above 1"),
        ({"stochastic_length": 1.5}, "give a seed"),
        ({"history_as_of": "exposur"}, "did you mean 'exposure'"),
        ({"rank": 2, "world_size": 2}, "rank must be in"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(ValueError, match=message):
            WindowLoader(log, "train", **{"batch_tokens": 60, **changes})
    with pytest.raises(ValueError, match="did you mean 'train'"):
        WindowLoader(log, "tran", batch_tokens=60)
    with pytest.raises(ValueError, match="is for training"):
        WindowLoader(log, "test", batch_tokens=60, seed=0, stochastic_length=1.5)
