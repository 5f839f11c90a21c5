"""Which event of a user is held out, what stands before it, what the user has seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.clicks import click_schema, clicks, prepare_clicks
from torchrec_gr.data.held_out_loader import HeldOutLoader
from torchrec_gr.data.prepared_log import PreparedLog


@pytest.fixture
def log(tmp_path: Path) -> PreparedLog:
    return prepare_clicks(tmp_path, clicks(num_users=20))


def expected(log: PreparedLog, split: str) -> dict[int, list[int]]:
    """User -> rows of all items up to the last event in the split, by a loop over all events."""
    assert log.events is not None
    events, found = log.events, {}
    for user in range(len(events.user_starts) - 1):
        places = range(events.user_starts[user], events.user_starts[user + 1])
        of_split = [i for i in places if events.splits[events.split[i]] == split]
        if of_split and of_split[-1] > places[0]:
            found[user] = events.rows["history_item"][places[0] : of_split[-1] + 1].tolist()
    return found


def read(loader: HeldOutLoader) -> dict[int, tuple[list[int], list[int], int]]:
    """User -> history, seen items and target."""
    found = {}
    for held in loader:
        lengths = held.batch.num_history().tolist()
        histories = held.batch.ids["history_item"].to_dense()
        seen = held.seen_values.split(held.seen_offsets.diff().tolist())
        for i, target in enumerate(held.targets.tolist()):
            assert len(histories[i]) == lengths[i]
            user = int(held.batch.user_ids[i])
            found[user] = (histories[i].tolist(), seen[i].tolist(), target)
    return found


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("max_history", [1, 3, 100])
def test_the_last_event_of_the_split_is_predicted_from_all_before_it(
    log: PreparedLog, split: str, max_history: int
) -> None:
    loader = HeldOutLoader(log, split, batch_size=3, max_history=max_history)
    want = expected(log, split)
    found = read(loader)
    assert set(found) == set(want)
    for user, items in want.items():
        assert found[user] == (items[:-1][-max_history:], items[:-1], items[-1])
    assert loader.counts["skipped"] == log.num_users - len(want)


@pytest.mark.parametrize("world_size", [1, 2, 3, 30])
def test_ranks_read_every_user_once_in_as_many_batches(log: PreparedLog, world_size: int) -> None:
    settings = {"batch_size": 2, "max_history": 4, "world_size": world_size}
    ranks = [HeldOutLoader(log, "test", rank=r, **settings) for r in range(world_size)]  # type: ignore[arg-type]
    assert len({len(list(rank)) for rank in ranks}) == 1
    users = [user for rank in ranks for user in read(rank)]
    assert users == sorted(expected(log, "test"))


def test_a_rank_without_users_reads_a_request_without_events(log: PreparedLog) -> None:
    loader = HeldOutLoader(log, "test", batch_size=2, max_history=4, rank=0, world_size=99)
    (held,) = loader
    assert held.targets.numel() == 0
    assert held.batch.num_history().tolist() == [0]


@pytest.mark.parametrize("catalogue_rows", [1, 7, 1000])
def test_the_catalogue_is_every_row_but_the_first(log: PreparedLog, catalogue_rows: int) -> None:
    loader = HeldOutLoader(log, "test", batch_size=2, max_history=4, catalogue_rows=catalogue_rows)
    pieces = [batch.ids["negative_history_item"].values().numpy() for batch in loader.catalogue()]
    items = np.concatenate(pieces)
    assert items.tolist() == list(range(1, log.table_rows["item"]))
    assert loader.num_catalogue == items.size


def test_a_split_without_anything_to_predict_is_refused(tmp_path: Path) -> None:
    one_each = clicks(num_users=1000).drop_duplicates("user")
    log = prepare_clicks(tmp_path, one_each)
    with pytest.raises(ValueError, match="'test' holds no user's event"):
        HeldOutLoader(log, "test", batch_size=2, max_history=4)


def test_a_log_without_a_target_is_refused(tmp_path: Path) -> None:
    log = prepare_clicks(tmp_path, schema=click_schema(target=None))
    with pytest.raises(ValueError, match="`target`"):
        HeldOutLoader(log, "test", batch_size=2, max_history=4)
