"""Times, differences and tables of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch

from benchmarks import measure


class _Clock:
    """A clock that stands still but for the calls that take time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.called: list[str] = []

    def __call__(self) -> float:
        return self.now

    def function(self, name: str, durations: Iterable[float]) -> Callable[[], None]:
        left = iter(durations)

        def call() -> None:
            self.called.append(name)
            self.now += next(left)

        return call


def test_functions_take_turns_and_the_best_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    monkeypatch.setattr(measure, "perf_counter", clock)
    functions = {"a": clock.function("a", [3.0, 2.0, 4.0]), "b": clock.function("b", [5.0] * 3)}
    assert measure.best_milliseconds(functions, seconds=1.0) == {"a": 2000.0, "b": 5000.0}
    assert clock.called == ["a", "b", "b", "a", "a", "b"]


def test_a_quick_function_is_called_often_and_not_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    monkeypatch.setattr(measure, "perf_counter", clock)
    functions = {
        "slow": clock.function("slow", [1.0] * 9),
        "quick": clock.function("q", [1e-3] * 99),
    }
    measure.best_milliseconds(functions, seconds=6.0)
    assert clock.called.count("slow") == 5  # one to begin with, then what fits in a third
    assert clock.called.count("q") == 15


def test_difference_is_relative_to_each_tensors_largest_value() -> None:
    ours = [torch.tensor([1.0, 10.5]), torch.tensor([-0.02, 0.0])]
    others = [torch.tensor([1.0, 10.0]), torch.tensor([-0.01, 0.04])]
    assert measure.largest_difference(ours, others) == pytest.approx(1.0)
    assert measure.largest_difference(ours[:1], others[:1]) == pytest.approx(0.05)


@pytest.mark.parametrize("place", [0, 1])
def test_difference_of_what_is_not_a_number_is_none(place: int) -> None:
    ours = [torch.ones(2), torch.ones(2)]
    ours[place] = ours[place] * float("nan")
    assert not measure.largest_difference(ours, [torch.ones(2), torch.ones(2)]) <= 1e9


def test_table_is_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    table = measure.Table({"name": 6, "ms": 2})
    table.row("x", "1.5")
    assert capsys.readouterr().out.splitlines() == [
        "",
        "|   name | ms |",
        "|-------:|---:|",
        "|      x | 1.5 |",
    ]


def test_machine_says_what_was_measured_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "_MATMUL_SIZES", (8,))
    machine = measure.machine([torch.float32, torch.bfloat16], seconds=0.0)
    assert machine["threads"] == torch.get_num_threads()
    assert machine["torch"] == torch.__version__
    assert set(machine["matmul_gflops"]) == {"float32", "bfloat16"}
    assert min(machine["matmul_gflops"].values()) > 0
    measure.print_machine(machine)
    assert machine["cpu"] in capsys.readouterr().out
