"""What tables take is what their sharded optimizers hold, and a shortage is told in full."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.training.toy import DIM, NUM_ITEMS, sharded, toy_model
from torchrec_gr.training.freeze import freeze
from torchrec_gr.training.optimizer import TableOptimizer, fuse_table_optimizer
from torchrec_gr.training.table_bytes import (
    _enough_processes,
    bytes_each,
    row_bytes,
    shortage,
    size,
)
from torchrec_gr.training.tables import table_weights


def _table(rows: int, dim: int, optimizer: str = "sgd") -> nn.Parameter:
    weight = nn.Parameter(torch.empty(rows, dim, device="meta"))
    fuse_table_optimizer(weight, TableOptimizer(name=optimizer))  # type: ignore[arg-type]
    return weight


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd", "adamw"])
def test_a_row_takes_what_it_and_its_optimizer_hold(optimizer: str) -> None:
    _, optimizers = sharded(toy_model("requests"), optimizer=optimizer)
    state: dict[str, Any] = optimizers.state_dict()["state"]["embeddings.embeddings.item.weight"]
    kept = [
        part.tensor
        for value in state.values()
        if hasattr(value, "local_shards")
        for part in value.local_shards()
    ]
    held = NUM_ITEMS * DIM * 4 + sum(tensor.nbytes for tensor in kept)
    if optimizer == "adamw":
        held += NUM_ITEMS * DIM * 4  # the gradient, which is dense
    assert NUM_ITEMS * row_bytes(_table(NUM_ITEMS, DIM, optimizer)) == held


def test_a_frozen_row_takes_its_numbers_alone() -> None:
    model = toy_model("requests")
    freeze(model, ["item"])
    assert row_bytes(table_weights(model)["item"]) == DIM * 4


def test_each_process_holds_a_stretch_of_every_table() -> None:
    weights = {"a": _table(10, 4), "b": _table(1, 8)}
    assert [bytes_each(weights, n) for n in (1, 2, 3, 10, 99)] == [192, 112, 96, 48, 48]


@pytest.mark.parametrize("limit", [47, 48, 49, 64, 65, 95, 96, 111, 112, 191])
def test_the_processes_that_are_enough_are_the_fewest(limit: int) -> None:
    weights = {"a": _table(10, 4), "b": _table(1, 8)}
    counts = [n for n in range(1, 100) if bytes_each(weights, n) <= limit]
    enough = _enough_processes(weights, bytes_each(weights, 1), limit)
    assert enough == (counts[0] if limit > 48 else None)


def test_a_shortage_says_how_much_is_missing_and_what_would_help() -> None:
    weights = {
        "item": _table(50_000_000, 16, "adagrad"),
        "user": _table(10_000_000, 16, "adagrad"),
        "ad": _table(1_000_000, 16, "adagrad"),
        "tiny": _table(10, 16, "adagrad"),
    }
    text = shortage(weights, 2, 2_000_000_000)
    for part in (
        "take 7.8 GB in all",
        "3.9 GB on each process of 2",
        "may hold 2.0 GB of tables, all of them 4.0 GB",
        "1.9 GB a process are missing, 3.8 GB in all",
        "'item' (50,000,000 x 16) 6.4 GB, 'user' (10,000,000 x 16) 1.3 GB, 'ad' (1,000,000 x 16)",
        "4 processes with as much memory each",
        "'rowwise_adagrad': 4.1 GB in all",
        "'sgd': 3.9 GB in all",
        "0.51 of these numbers fit",
        "`max_rows`",
        "`max_table_bytes`",
    ):
        assert part in text
    assert "tiny" not in text


def test_an_optimizer_that_saves_nothing_is_not_proposed() -> None:
    text = shortage({"item": _table(100, 16, "sgd")}, 1, 640)
    assert "rowwise_adagrad" not in text
    assert "'sgd'" not in text
    assert "10 processes" in text


def test_sizes_are_read_in_their_unit() -> None:
    sizes = [0, 999, 1000, 1_250_000, 3_400_000_000, 2 * 10**12]
    assert [size(n) for n in sizes] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "1.2 MB",
        "3.4 GB",
        "2.0 TB",
    ]
