"""The tables of the attention benchmarks, on tiny rows: what they measure, print and write."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import measure as measuring
from benchmarks.ops import attention_tables, hstu_attention, jagged_softmax_attention
from benchmarks.ops.attention_inputs import AttentionInputs
from benchmarks.ops.attention_tables import Op, Plan, benchmark, measure

TINY = Plan(
    batches=((3, 20), (2, 9)),
    widths=(8,),
    batch=(3, 40),
    width=8,
    odd_widths=((5, 8),),
    seconds=0.0,
)
PEAKS = {"float32": 100.0, "bfloat16": 200.0}
OPS = [
    pytest.param(hstu_attention.OP, id="hstu_attention"),
    pytest.param(jagged_softmax_attention.OP, id="jagged_softmax_attention"),
]


@pytest.mark.parametrize("op", OPS)
def test_every_case_is_measured_once(op: Op) -> None:
    rows = measure(op, TINY, PEAKS)
    keys = [(row["name"], json.dumps(row["case"])) for row in rows]
    assert len(set(keys)) == len(keys)
    compared = [row for row in rows if "ratio" in row]
    assert len(compared) == 2 * 2 * 2 * len(op.contestants)  # dtypes, batches, passes
    for row in compared:
        assert set(row) == {"name", "case", "ours", "other", "ratio", "difference"}
        assert row["ratio"] == pytest.approx(row["other"] / row["ours"])
    for row in rows:
        if "ratio" not in row:
            assert set(row) == {"name", "case", "value"}
    costs = [row["case"] for row in rows if "cost" in row["name"]]
    assert sum("mask" in case for case in costs) == 5 * 2
    assert sum("bias" in case for case in costs) == 5 * 2
    assert len(costs) == 5 * 2 + 5 * 2 + 2 * 2 * 2
    assert sum("checks" in row["name"] for row in rows) == 2  # dtypes


@pytest.mark.parametrize("op", OPS)
def test_results_of_the_same_function_are_compared(op: Op) -> None:
    rows = [row for row in measure(op, TINY, PEAKS) if "ratio" in row]
    for other in op.contestants:
        of_other = [row for row in rows if other.name in row["name"]]
        assert of_other
        assert all((row["difference"] is not None) == other.same_function for row in of_other)


def _slightly_wrong(inputs: AttentionInputs) -> Tensor:
    return hstu_attention.OP.attend(inputs) * 1.001


def _wrong_in_the_gradient(inputs: AttentionInputs) -> Tensor:
    return hstu_attention.OP.attend(inputs) + (inputs.q - inputs.q.detach()) * 0.1


def _not_a_number(inputs: AttentionInputs) -> Tensor:
    return hstu_attention.OP.attend(inputs) * float("nan")


@pytest.mark.parametrize("wrong", [_slightly_wrong, _not_a_number])
def test_no_time_is_printed_where_results_differ(
    wrong: attention_tables.Attend, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="results differ"):
        measure(hstu_attention.OP._replace(attend=wrong), TINY, PEAKS)
    assert "fp32" not in capsys.readouterr().out.replace("to fp32", "")


def test_gradients_are_compared_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="forward \\+ backward"):
        measure(hstu_attention.OP._replace(attend=_wrong_in_the_gradient), TINY, PEAKS)
    assert "fwd+bwd" not in capsys.readouterr().out


def test_share_of_the_peak_counts_useful_flops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        attention_tables, "best_milliseconds", lambda calls, seconds: dict.fromkeys(calls, 2.0)
    )
    rows = measure(hstu_attention.OP, TINY, PEAKS)
    (row,) = (
        row
        for row in rows
        if "peak" in row["name"]
        and row["case"]["dtype"] == "bfloat16"
        and row["case"]["max_seq_len"] == 9
        and row["case"]["pass"] == "forward"
    )
    inputs = attention_tables.draw_inputs(2, 9, 8, torch.bfloat16)
    pairs = sum(n * (n + 1) // 2 for n in inputs.offsets.diff().tolist())
    gflops = 4 * 2 * 2 * 8 * pairs / 1e9
    assert row["value"] == pytest.approx(gflops / 2e-3 / PEAKS["bfloat16"])


def test_cost_is_the_time_of_a_visible_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """When all calls take alike long, what sees half of the pairs costs double."""
    monkeypatch.setattr(
        attention_tables, "best_milliseconds", lambda calls, seconds: dict.fromkeys(calls, 2.0)
    )
    costs = [row for row in measure(hstu_attention.OP, TINY, PEAKS) if "cost" in row["name"]]
    for row in costs:
        case = row["case"]
        if case.get("mask") == "causal" or "bias" in case:
            assert row["value"] == 1.0
        if case.get("mask", "").startswith("ranking targets"):
            lengths = attention_tables.draw_inputs(3, 40, 8, torch.float32).offsets.diff()
            candidates = lengths // 8
            hidden = (candidates * (candidates - 1) // 2).sum()
            pairs = (lengths * (lengths + 1) // 2).sum()
            assert row["value"] == pytest.approx(float(pairs / (pairs - hidden)))
        if "width" in row["name"]:
            assert row["value"] == pytest.approx(8 / case["width"])


def test_command_line_prints_and_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(attention_tables, "QUICK", TINY)
    monkeypatch.setattr(measuring, "_MATMUL_SIZES", (8,))
    threads = str(torch.get_num_threads())
    file = tmp_path / "figures.json"
    arguments = ["benchmark", "--quick", "--json", str(file), "--threads", threads]
    monkeypatch.setattr(sys, "argv", arguments)
    benchmark(hstu_attention.OP, "benchmarks.ops.hstu_attention", "doc")
    document = json.loads(file.read_text())
    assert set(document) == {"machine", "rows"}
    assert document["machine"]["threads"] == int(threads)
    printed = capsys.readouterr().out
    assert "padded PyTorch" in printed
    assert "torch.randint(1, N + 1, (B,))" in printed
    assert max(map(len, printed.splitlines())) <= 120
