"""DLRM on a log of items that come and go, day by day."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks import unbounded_ids
from benchmarks.daily_log import CONTEXT, ITEM, NUM_DAYS, Day, Log, draw_log
from benchmarks.unbounded_ids import (
    LFU,
    LRU,
    STATIC,
    UNLIMITED,
    Plan,
    compare,
    measure,
    static_configs,
)
from torchrec_gr.training.process_group import process_group

TINY = Plan(
    {"num_users": 20, "num_items": 2_000, "num_impressions": 3_000, "item_lifetime_days": 5},
    max_rows=100,
    batch_size=64,
    seeds=range(2),
)


@pytest.fixture(scope="module")
def log() -> Log:
    return draw_log(0, **TINY.log)


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    with process_group("cpu"):
        yield


def test_days_are_gone_through_in_time_order_and_each_row_once(log: Log) -> None:
    days = [Day(log, number, batch_size=64) for number in range(NUM_DAYS)]
    batches = [batch for day in days for batch in day]
    assert len(batches) == sum(day.num_steps for day in days)
    assert torch.cat([batch.source_rows for batch in batches]).tolist() == list(range(3_000))
    assert max(len(batch.labels) for batch in batches) == 64
    for number, day in enumerate(days):
        rows = torch.cat([batch.source_rows for batch in day])
        assert (log.day[rows] == number).all()


def test_a_batch_holds_the_logs_own_values(log: Log) -> None:
    batch = next(iter(Day(log, 3, batch_size=10)))
    rows = batch.source_rows
    assert torch.equal(batch.labels, log.labels[rows])
    assert torch.equal(batch.dense_features, log.dense[rows])
    for name in (ITEM, *CONTEXT):
        feature = batch.sparse_features[name]
        assert torch.equal(feature.values(), log.ids[name][rows])
        assert feature.lengths().tolist() == [1] * 10


def test_items_are_without_end_and_the_rest_is_not(log: Log) -> None:
    assert log.ids[ITEM].max() > 2**60
    sizes = {table.name: table.num_embeddings for table in static_configs(log, 77)}
    assert sizes["user_id"] <= 20
    assert sizes[ITEM] == 77


def test_bounded_and_hashed_tables_take_the_same_memory(log: Log) -> None:
    outcomes = compare(log, TINY, seed=0)
    assert outcomes[LRU].item_rows <= TINY.max_rows
    assert outcomes[LFU].item_rows <= TINY.max_rows
    last_rows = outcomes[LRU].item_bytes - outcomes[STATIC].item_bytes
    assert 0 <= last_rows < 4 * (16 + 1)
    assert outcomes[UNLIMITED].item_rows == len(log.ids[ITEM].unique())
    assert all(0.3 < outcome.auc < 0.9 for outcome in outcomes.values())


def test_gains_are_taken_seed_by_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def outcomes(log: Log, plan: Plan, seed: int) -> dict[str, unbounded_ids.Outcome]:
        aucs = {STATIC: 0.6 + seed / 10, LRU: 0.61 + seed / 10, LFU: 0.6, UNLIMITED: 0.7}
        return {name: unbounded_ids.Outcome(auc, 0.5, 5, 7) for name, auc in aucs.items()}

    monkeypatch.setattr(unbounded_ids, "compare", outcomes)
    rows = measure(TINY)
    assert rows[-1]["name"] == "unbounded_ids_test_ceiling"
    found = {(row["name"], row["case"]["item_table"]): row["value"] for row in rows[:-1]}
    assert found["unbounded_ids_test_auc", STATIC] == 0.5
    assert found["unbounded_ids_auc", STATIC] == pytest.approx(0.65)
    assert found["unbounded_ids_auc_gain", LRU] == pytest.approx(0.01)
    assert found["unbounded_ids_auc_gain_standard_error", LRU] == pytest.approx(0.0)
    assert found["unbounded_ids_auc_gain", LFU] == pytest.approx(-0.05)
    assert found["unbounded_ids_auc_gain_standard_error", LFU] == pytest.approx(0.05)
    assert "+0.0100 +- 0.0000" in capsys.readouterr().out
