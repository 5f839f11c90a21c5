"""What the benchmarks share: the machine, times, tables that print as they grow, and JSON."""

from __future__ import annotations

import argparse
import functools
import json
import math
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from torchrec_gr.ops import cpu_capability

Row = dict[str, Any]

_ROUNDS = 3
_MOST_CALLS_A_ROUND = 7
_MATMUL_SIZES = (1024, 2048, 3072)
_CPU_INFO = Path("/proc/cpuinfo")


def parse(
    module: str,
    doc: str | None,
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> argparse.Namespace:
    """Reads a benchmark's arguments (`quick`, `json`, `threads`, its own), and sets the threads."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="small shapes, under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="default: torch's own number"
    )
    add_arguments(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def machine(dtypes: Sequence[torch.dtype], seconds: float) -> dict[str, Any]:
    """What the figures were measured on, with the matmul peak of each dtype in GFLOP/s."""
    return {
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "capability": cpu_capability(),
        "matmul_gflops": {dtype_name(dtype): _matmul_peak(dtype, seconds) for dtype in dtypes},
    }


def print_machine(machine: Mapping[str, Any]) -> None:
    """Says what `machine` found, in a line or two."""
    print(
        f"{machine['cpu']} ({machine['capability']} kernels), threads: {machine['threads']}, "
        f"torch {machine['torch']}"
    )
    peaks = ", ".join(f"{name} {peak:.0f}" for name, peak in machine["matmul_gflops"].items())
    if peaks:
        print(f"measured peak of torch.matmul in GFLOP/s: {peaks}")


def best_milliseconds(
    functions: Mapping[str, Callable[[], object]], seconds: float
) -> dict[str, float]:
    """The best wall time of each function, which must be warm.

    They take turns, back to back, in an order that is reversed from one round to the next.

    Args:
        functions: by name.
        seconds: about how long to measure each; a slow one still runs once a round.
    """
    best = dict.fromkeys(functions, math.inf)
    order = list(functions)
    for _ in range(_ROUNDS):
        for name in order:
            calls = int(seconds / _ROUNDS / best[name])
            for _ in range(min(max(calls, 1), _MOST_CALLS_A_ROUND)):
                began = perf_counter()
                functions[name]()
                best[name] = min(best[name], perf_counter() - began)
        order.reverse()
    return {name: 1000 * duration for name, duration in best.items()}


def largest_difference(ours: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """The largest difference of two results, each tensor's relative to its own largest value."""
    relative = [
        (a.double() - b.double()).abs().max() / b.double().abs().max()
        for a, b in zip(ours, others, strict=True)
    ]
    return float(torch.stack(relative).max())  # NaN if any is


def compared(name: str, case: Row, ours: float, other: float, difference: float | None) -> Row:
    """A row for the JSON file: two times. `difference` is None where the results may differ."""
    return {
        "name": name,
        "case": case,
        "ours": ours,
        "other": other,
        "ratio": other / ours,
        "difference": difference,
    }


def figure(name: str, case: Row, value: float) -> Row:
    """A row for the JSON file: a figure by itself."""
    return {"name": name, "case": case, "value": value}


def write_json(path: Path, machine: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Writes what was measured, and on what."""
    document = {"machine": dict(machine), "rows": list(rows)}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


class Table:
    """A markdown table that prints each row as soon as it is known.

    Args:
        columns: headings, and how wide their cells become.
    """

    def __init__(self, columns: Mapping[str, int]) -> None:
        self._widths = [max(len(heading), width) for heading, width in columns.items()]
        print()
        self.row(*columns)
        print("|" + "|".join("-" * (width + 1) + ":" for width in self._widths) + "|")

    def row(self, *cells: str) -> None:
        """Prints one row."""
        padded = (f" {cell:>{width}} " for cell, width in zip(cells, self._widths, strict=True))
        print("|" + "|".join(padded) + "|", flush=True)


def dtype_name(dtype: torch.dtype) -> str:
    """ "float32" of torch.float32."""
    return str(dtype).removeprefix("torch.")


def _matmul_peak(dtype: torch.dtype, seconds: float) -> float:
    peak = 0.0
    for size in _MATMUL_SIZES:
        a, b = torch.randn(2, size, size).to(dtype)
        multiply = functools.partial(torch.matmul, a, b, out=a @ b)
        milliseconds = best_milliseconds({"matmul": multiply}, seconds)["matmul"]
        peak = max(peak, 2 * size**3 / (milliseconds * 1e6))
    return peak


def _cpu_model() -> str:
    if _CPU_INFO.exists():
        found = re.search(r"^model name\s*: (.+)$", _CPU_INFO.read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()
