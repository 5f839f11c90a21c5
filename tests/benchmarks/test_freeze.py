"""What frozen tables cost, on few rows."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from benchmarks import freeze as benchmark
from benchmarks.embeddings.training_step import Case as Reading
from benchmarks.freeze import Case, Plan, Way, build, measure, memory_here, memory_of, train
from benchmarks.measure import Row
from torchrec_gr.training.process_group import process_group

TINY = Case(Reading("bags", (1, 3), 64, 8, 10), 1)


def test_each_way_is_compared_with_what_torchrec_has(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        benchmark,
        "memory_of",
        lambda case, way: memory_of(case, way) if way == "freeze" else memory_here(case, way),
    )
    rows: list[Row] = measure(Plan((TINY,), seconds=0.0))
    state = {row["case"]["by"]: row["value"] for row in rows if row["name"] == "frozen_state_bytes"}
    of_one_table = 64 * torch.float32.itemsize
    assert state == {
        "freeze": of_one_table,
        "freeze, sharded": 2 * of_one_table,
        "SGD of rate 0": of_one_table,
        "trained": 2 * of_one_table,
    }
    steps = [row for row in rows if row["name"] == "frozen_step"]
    assert len(steps) == 2 * len(get_args(Way))
    for row in steps:
        assert row["ratio"] == row["other"] / row["ours"] > 0
    assert "times as fast" in capsys.readouterr().out


@pytest.mark.parametrize("way", get_args(Way))
def test_all_but_the_trained_keep_their_frozen_tables(way: Way) -> None:
    with process_group("cpu"):
        model = build(TINY, way)
        names = [f"collection.embedding_bags.table_{number}.weight" for number in range(2)]

        def weights() -> list[torch.Tensor]:
            return [model.state_dict()[n].local_shards()[0].tensor.clone() for n in names]

        before = weights()
        train(model, [benchmark.draw_batch(TINY.reading, 0)])
        moved = [not torch.equal(a, b) for a, b in zip(before, weights(), strict=True)]
    assert moved == [way == "trained", True]


def test_ways_that_learn_another_thing_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "freeze", lambda model, tables: [])
    with (
        process_group("cpu"),
        pytest.raises(RuntimeError, match="freeze: after training, scores differ"),
    ):
        benchmark._times(TINY, 0.0)
