"""Tables that do not fit one process: split over two, they train to the numbers of one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from benchmarks import static_tables
from tests.training.toy import (
    DIM,
    NUM_ITEMS,
    NUM_USERS,
    ToyLoader,
    ToyLog,
    sharded,
    toy_model,
    whole,
)
from torchrec_gr.training.memory import free_memory
from torchrec_gr.training.optimizer import TableOptimizer
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import shard
from torchrec_gr.training.trainer import Trainer

NUM_PROCESSES = 2
ROOM = (NUM_ITEMS // 2 + 1 + NUM_USERS) * (DIM + 1) * 4
"""Of a process: the users and half of the items, with the row-wise optimizer's state."""


def _train(max_table_bytes: int | None) -> dict[str, Any]:
    """Trains bags in whole batches: losses, how tables are sharded, and where each shard lies."""
    model, optimizers = sharded(toy_model("impressions"), max_table_bytes=max_table_bytes)
    trainer = Trainer(model, optimizers, ToyLoader(ToyLog(), "impressions", pad=True))
    losses = [trainer.train_epoch().mean_loss for _ in range(2)]
    plan = model.plan.plan["sparse.bags"]
    return {
        "losses": losses,
        "plan": plan,
        "kinds": {table: placed.sharding_type for table, placed in plan.items()},
        "weights": {
            name: [(part.metadata.shard_offsets[0], part.tensor) for part in value.local_shards()]
            if hasattr(value, "local_shards")
            else [(0, value)]
            for name, value in model.state_dict().items()
        },
    }


def _drawn(look_up: Any) -> dict[str, torch.Tensor]:
    """First values of a model that was built on the meta device: whole, or this process's rows."""
    torch.manual_seed(dist.get_rank())  # weights of all processes follow from the first one's seed
    model = static_tables.Reader(static_tables.Case(look_up, 1000, 8, NUM_PROCESSES, 1, 1))
    after = shard(
        model, device=torch.device("cpu"), table_optimizer=TableOptimizer(), sharding="row_wise"
    )
    return {name: whole(value) for name, value in after.state_dict().items()}


def _train_in_process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["LOCAL_WORLD_SIZE"] = str(NUM_PROCESSES)
    store = dist.FileStore(str(folder / "store"), NUM_PROCESSES)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=NUM_PROCESSES)
    with process_group("cpu") as device:
        results = _train(ROOM) | {"free": free_memory(device)}
        results |= {look_up: _drawn(look_up) for look_up in ("sequences", "bags")}
    torch.save(results, folder / str(rank))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(_train_in_process, args=(folder,), nprocs=NUM_PROCESSES)
    return [torch.load(folder / str(rank), weights_only=False) for rank in range(NUM_PROCESSES)]


@pytest.mark.parametrize("look_up", ["sequences", "bags"])
def test_each_process_draws_its_own_rows_and_all_the_same_dense_weights(
    look_up: str, by_two: list[dict[str, Any]]
) -> None:
    first, second = (results[look_up] for results in by_two)
    assert torch.equal(first.pop("head.weight"), second.pop("head.weight"))
    assert torch.equal(first.pop("head.bias"), second.pop("head.bias"))
    ((_, one),), ((_, other),) = first.items(), second.items()
    assert one.shape == other.shape == (500, 8)
    correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
    assert abs(correlation) < 0.1
    for rows in (one, other):
        assert rows.std().item() == pytest.approx(1000**-0.5 / 3**0.5, rel=0.05)


def test_a_table_that_must_be_split_trains_to_the_numbers_of_one_process(
    by_two: list[dict[str, Any]],
) -> None:
    one, results = _train(None), by_two
    assert one["kinds"] == {"item": "table_wise", "user": "table_wise"}
    assert one["losses"][1] < one["losses"][0]
    rows = dict.fromkeys(one["weights"], 0)
    for two in results:
        assert two["kinds"] == {"item": "row_wise", "user": "table_wise"}
        assert two["plan"] == results[0]["plan"]
        assert two["free"] == results[0]["free"]
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
        for name, parts in two["weights"].items():
            ((_, expected),) = one["weights"][name]
            for first, part in parts:
                torch.testing.assert_close(part, expected[first : first + len(part)])
                rows[name] += len(part)
    assert rows["sparse.bags.embedding_bags.item.weight"] == NUM_ITEMS
    assert rows["sparse.bags.embedding_bags.user.weight"] == NUM_USERS


def _check(case: static_tables.Case, kind: str) -> list[static_tables.Trained]:
    reports = static_tables.train(case)
    assert {report.sharding for report in reports} == {kind}
    spans = sorted(report.rows for report in reports)
    assert spans[0][0] == 0
    assert [end for _, end in spans][:-1] == [first for first, _ in spans][1:]
    assert spans[-1][1] == case.num_rows
    assert sum(r.table_bytes for r in reports) == case.num_rows * (case.width + 1) * 4
    for report in reports:
        assert report.losses[-1] < 0.5 * report.losses[0]
    return reports


def test_bags_that_no_process_holds_whole_train() -> None:
    *_, split = static_tables.cases(200_001, 16, NUM_PROCESSES, quick=True)
    _check(split._replace(num_steps=60), "row_wise")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "kind"), [(0, "row_wise"), (1, "table_wise"), (2, "row_wise")])
def test_fifty_million_rows_train_within_the_memory_of_a_small_machine(
    number: int, kind: str
) -> None:
    case = static_tables.cases(50_000_000, 16, NUM_PROCESSES, quick=False)[number]
    reports = _check(case._replace(num_steps=60), kind)
    assert sum(report.peak_memory for report in reports) < 24e9
    for report in reports:  # beside its libraries and its rows, a process needs little
        assert report.peak_memory < report.memory_before + report.table_bytes + 0.5e9
