"""The MTGR benchmark: both ways train on the same, and no time stands beside a wrong result."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.models import mtgr, mtgr_balance, mtgr_cost
from benchmarks.models.mtgr import (
    Case,
    Plan,
    draw_batch,
    measure_aggregation,
    measure_balance,
)
from benchmarks.models.mtgr_balance import NUM_RANKS, Batching, Epoch, batches_of, draw_lengths
from benchmarks.models.mtgr_cost import count_flops, fitted_line, measure_flops, measure_scoring
from benchmarks.models.mtgr_training import Training, build_model
from benchmarks.models.mtgr_windows import (
    draw_windows,
    one_sequence_each,
    take_rows,
)
from torchrec_gr.models.mtgr_config import MTGRConfig
from torchrec_gr.sequences.request_batch import RequestBatch
from torchrec_gr.training.process_group import process_group

CONFIG = MTGRConfig(dim=16, num_layers=2, max_seq_len=64)
TINY = Plan(
    windows=(Case("aggregation_3", 2, 3, 8, 4, 16), Case("aggregation_uneven", 3, 1.85, 8, 4, 16)),
    balance=mtgr_balance.Case(num_steps=3, num_rows=2, dim=16, num_rounds=1),
    cost=mtgr_cost.Case((1, 5), 8, 4, 16, (), 40),
    seconds=0.0,
)


def windows() -> RequestBatch:
    """Rows without events, without real-time ones, of one exposure and of several."""
    return draw_windows(
        torch.tensor([6, 0, 5, 9]), torch.tensor([4, 1, 3, 1]), torch.tensor([3, 0, 0, 9])
    )


@pytest.fixture
def one_process() -> Iterator[None]:
    with process_group("cpu"):
        yield


def _column(batch: RequestBatch, key: str, row: int) -> list[int]:
    return batch.ids[key].to_dense()[row].tolist()


def test_exposures_lie_between_the_real_time_events_in_the_order_of_time() -> None:
    batch = draw_windows(torch.tensor([200] * 9), torch.tensor([50] * 9), torch.tensor([20] * 9))
    assert batch.num_static.tolist() == [180] * 9
    known = (batch.candidate_times + 1) // 2  # events happen at 0, 2, 4, ... of their row
    assert known.min() == 180
    assert known.max() == 200
    assert len(known.unique()) == 21
    assert all((times.diff() >= 0).all() for times in batch.candidate_times.view(9, 50))
    assert not set(batch.candidate_times.tolist()) & set(batch.history_times.tolist())


def test_a_request_has_all_of_its_history_behind_it() -> None:
    counts = (torch.tensor([n]) for n in (7, 3, 2))
    batch = draw_windows(*counts, at_once=True)
    assert (batch.candidate_times > batch.history_times.max()).all()


def test_a_row_for_each_exposure_holds_what_happened_before_it() -> None:
    batch = windows()
    each = one_sequence_each(batch)
    place = 0
    for row, times in enumerate(batch.candidate_times.split(batch.num_candidates.tolist())):
        events = batch.history_times.split(batch.num_history().tolist())[row]
        for index, time in enumerate(times):
            num_known = int((events < time).sum())
            assert each.num_history()[place] == num_known
            for key in batch.history:
                assert _column(each, key, place) == _column(batch, key, row)[:num_known]
            for key in batch.contextual:
                assert _column(each, key, place) == _column(batch, key, row)
            for key in batch.candidates:
                assert _column(each, key, place) == [_column(batch, key, row)[index]]
            assert each.num_static[place] == batch.num_static[row]
            place += 1
    assert torch.equal(each.num_candidates, torch.ones(9, dtype=torch.int64))
    assert torch.equal(each.source_rows, batch.source_rows)
    assert each.labels is batch.labels or torch.equal(_of(each.labels), _of(batch.labels))


def _of(values: Tensor | None) -> Tensor:
    assert values is not None
    return values


def test_rows_taken_are_those_of_the_batch() -> None:
    batch = windows()
    taken = take_rows(batch, torch.tensor([3, 0, 2]))
    assert taken.num_candidates.tolist() == [1, 4, 3]
    assert taken.num_history().tolist() == [9, 6, 5]
    assert taken.source_rows.tolist() == [8, 0, 1, 2, 3, 5, 6, 7]
    for key in batch.ids.keys():  # noqa: SIM118  # a KeyedJaggedTensor is no mapping
        assert [_column(taken, key, row) for row in range(3)] == [
            _column(batch, key, row) for row in (3, 0, 2)
        ]
    assert taken.history_times.tolist() == [2 * place for n in (9, 6, 5) for place in range(n)]


@pytest.mark.usefixtures("one_process")
def test_both_ways_find_the_same_and_train_the_same() -> None:
    batch = windows()
    trained = []
    for given in (batch, one_sequence_each(batch)):
        training = Training(CONFIG)
        loss, output = training.scores(given)
        trained.append([loss, _of(output.logits)])
        for _ in range(2):
            training.step(given)
        trained[-1] += [training.scores(given)[0]]
    for ours, other in zip(*trained, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=1e-5)
    before, after = trained[0][0], trained[0][2]
    assert abs(before - after) > 1e-4


@pytest.mark.usefixtures("one_process")
def test_what_an_exposure_sees_matters_to_its_logits() -> None:
    """So that equal results mean that both ways show it the same."""
    batch = windows()
    training = Training(CONFIG)
    times = batch.candidate_times.clone()
    times[0] = -1 if times[0] > 6 else 2 * 6 - 1
    moved = dataclasses.replace(batch, candidate_times=times)
    logits = [_of(training.scores(b)[1].logits) for b in (batch, moved)]
    assert not torch.equal(logits[0][0], logits[1][0])
    assert torch.equal(logits[0][1:], logits[1][1:])


def test_every_case_has_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    rows = measure_aggregation(TINY.windows, 0.0)
    assert [row["name"] for row in rows if "ratio" in row] == [case.name for case in TINY.windows]
    for row in rows:
        if "ratio" in row:
            assert row["ratio"] == row["other"] / row["ours"] > 0
            assert 0 <= row["difference"] < 1e-5
        else:
            assert row["name"].endswith("_examples_per_second")
            assert row["value"] > 0
    rows = measure_scoring(TINY.cost, 0.0) + measure_flops(TINY.cost)
    names = {row["name"] for row in rows}
    assert {"scoring_1_ms", "scoring_5_ms", "scoring_fixed_ms", "scoring_ms_a_candidate"} <= names
    assert {"scoring_largest_error", "gflops_a_row", "gflops_an_example"} <= names
    assert "DLRM" in capsys.readouterr().out


def test_a_way_that_computes_another_thing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def another(batch: RequestBatch) -> RequestBatch:
        """Under another mask: static events see no more than real-time ones."""
        each = one_sequence_each(batch)
        return dataclasses.replace(each, num_static=torch.zeros_like(each.num_static))

    monkeypatch.setattr(mtgr, "one_sequence_each", another)
    with pytest.raises(RuntimeError, match="results differ by"):
        measure_aggregation(TINY.windows, 0.0)


def test_uneven_windows_have_the_mean_that_was_asked_for() -> None:
    counts = draw_batch(Case("aggregation_kuairand_window", 64, 9.0, 8, 4)).num_candidates
    assert counts.float().mean() == pytest.approx(9, abs=0.3)
    assert counts.min() == 1
    assert counts.max() > 30
    assert draw_batch(Case("aggregation_9", 3, 9, 8, 4)).num_candidates.tolist() == [9] * 3


def test_lengths_are_as_skewed_as_they_should_be() -> None:
    lengths = draw_lengths(384)
    assert lengths.float().mean() == pytest.approx(600, rel=0.01)
    assert 2800 < lengths.max() <= 3000
    assert lengths.median() < 450
    assert not torch.equal(lengths, lengths.sort().values)


@pytest.mark.parametrize("batching", mtgr_balance.BATCHINGS)
def test_every_row_is_trained_once_an_epoch(batching: Batching) -> None:
    case = mtgr_balance.Case(num_steps=12, num_rows=8, dim=16, num_rounds=1)
    lengths = draw_lengths(case.num_sequences)
    ranks = [batches_of(batching, lengths, case, rank) for rank in range(NUM_RANKS)]
    assert [len(batches) for batches in ranks] == [12] * NUM_RANKS
    trained = [row for batches in ranks for rows in batches for row in rows.tolist()]
    assert sorted(trained) == list(range(case.num_sequences))


def test_batches_by_tokens_hold_about_as_many() -> None:
    case = mtgr_balance.Case(num_steps=12, num_rows=8, dim=16, num_rounds=1)
    lengths = draw_lengths(case.num_sequences)
    spread = {}
    for batching in mtgr_balance.BATCHINGS:
        sums = [
            float(lengths[rows].sum())
            for rank in range(NUM_RANKS)
            for rows in batches_of(batching, lengths, case, rank)
        ]
        assert sum(sums) / len(sums) == pytest.approx(8 * 600, rel=0.02)
        spread[batching] = float(torch.tensor(sums).std())
    assert spread["tokens"] < spread["rows"] / 2


def test_an_epoch_at_two_processes_has_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    rows = measure_balance(TINY.balance)
    assert rows[0]["name"] == "token_balanced"
    assert rows[0]["difference"] < 1e-5
    assert rows[0]["ratio"] > 0
    assert len(rows) == 1 + 2 * 5
    assert "tokens/s" in capsys.readouterr().out


def test_batches_of_other_rows_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = {
        "tokens": Epoch([1.0] * 3, [2] * 3, 10.0, 6),
        "rows": Epoch([1.0] * 3, [2] * 3, 10.1, 6),
    }
    monkeypatch.setattr(mtgr_balance, "train", lambda case: epochs)
    with pytest.raises(RuntimeError, match="losses of the same rows differ"):
        measure_balance(TINY.balance)


def test_a_line_is_found_and_small_times_count_as_large_ones() -> None:
    fixed, each = fitted_line({number: 3 + 0.5 * number for number in (1, 10, 1000)})
    assert (fixed, each) == pytest.approx((3, 0.5))
    fixed, each = fitted_line({1: 1.0, 1000: 2000.0})
    assert fixed + each == pytest.approx(1)
    assert fixed + 1000 * each == pytest.approx(2000)


def test_flops_are_those_of_the_layers() -> None:
    """What a candidate more costs: its own projections, and its pairs with what it sees."""
    case = mtgr_cost.Case((1, 2), 8, 4, 16, ("small",), 40)
    one, two, dlrm, small = count_flops(case)
    dim, event, seen, layers = 16, 6 + 8, 6 + 8 + 1, 3
    candidate_in = 5 * 32 + 4 + 1
    of_mlp = dim * candidate_in + dim * dim
    of_layers = layers * (4 * dim * dim + 2 * dim * dim + seen * 2 * dim)
    of_heads = dim * 2 * 64
    assert event == one.num_tokens - 1
    more = 2 * (of_mlp + of_layers + of_heads)
    assert (two.gflops - one.gflops) * 1e9 == pytest.approx(more)
    assert dlrm.num_candidates == 1
    assert 0 < dlrm.gflops < small.gflops


def test_the_issues_rows_are_measured() -> None:
    names = {case.name for case in mtgr.FULL.windows}
    sizes = {f"aggregation_{size}" for size in ("5", "20", "50", "kuairand_window", "kuairand_day")}
    assert names == sizes == {case.name for case in mtgr.QUICK.windows}
    twenty = next(case for case in mtgr.FULL.windows if case.name == "aggregation_20")
    assert (twenty.num_candidates, twenty.num_history) == (20, 200)
    assert {1, 10, 100, 1000} <= set(mtgr.FULL.cost.num_candidates)
    assert mtgr.FULL.balance.num_rows == 8


def test_figures_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mtgr, "QUICK", TINY)
    monkeypatch.setattr(mtgr, "measure_balance", lambda case: [])
    monkeypatch.setattr(measure, "_MATMUL_SIZES", (64,))
    threads = str(torch.get_num_threads())
    path = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["mtgr", "--quick", "--json", str(path), "--threads", threads])
    mtgr.main()
    document = json.loads(path.read_text())
    assert document["machine"]["threads"] == torch.get_num_threads()
    assert "aggregation_3" in {row["name"] for row in document["rows"]}
    assert "candidates" in capsys.readouterr().out


def test_a_model_has_the_same_weights_wherever_it_is_built() -> None:
    states = [build_model(CONFIG).state_dict() for _ in range(2)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
