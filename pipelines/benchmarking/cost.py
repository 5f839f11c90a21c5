"""What a model costs, as a benchmark keeps it: `costs.json` holds one entry a model and width."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.results.rows import write_atomically

COSTS_FILE = "costs.json"


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a ranker costs on one machine; see `measuring` for how each figure is measured.

    Args:
        latency_ms: by number of candidates of a request, the median and the 99th percentile of the
            milliseconds from the request's tensors to its scores.
        peak_memory_bytes: what training takes at its peak beyond what the process held before.
        checkpoint_bytes: of a whole checkpoint on disk, optimizer state included; of trees, of the
            file that LightGBM saves.
        train_flops: of a training example, forward and backward; None of trees.
        score_flops: of a candidate, in a request of 100; None of trees.
        pretrain_flops: of a sequence in pretraining, forward and backward; None without
            pretraining.
    """

    latency_ms: Mapping[int, tuple[float, float]]
    peak_memory_bytes: int
    checkpoint_bytes: int
    train_flops: float | None = None
    score_flops: float | None = None
    pretrain_flops: float | None = None


def read_costs(out_dir: Path) -> dict[str, Cost]:
    """Reads `costs.json`; no file is no costs.

    Raises:
        ValueError: the file is not what `write_cost` writes: it names the entry.
    """
    path = out_dir / COSTS_FILE
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {name: _from_plain(entry) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it to measure again") from error


def write_cost(out_dir: Path, name: str, cost: Cost) -> None:
    """Adds an entry to `costs.json`, or puts it in the place of the one of the same name."""
    entries = {n: dataclasses.asdict(c) for n, c in {**read_costs(out_dir), name: cost}.items()}
    content = json.dumps(entries, indent=1, allow_nan=False)
    write_atomically(out_dir / COSTS_FILE, f"{content}\n".encode())


def _from_plain(entry: Mapping[str, Any]) -> Cost:
    latency = {int(n): (float(a), float(b)) for n, (a, b) in entry["latency_ms"].items()}
    cost = Cost(**{**entry, "latency_ms": latency})
    sizes = (cost.peak_memory_bytes, cost.checkpoint_bytes)
    flops = (cost.train_flops, cost.score_flops, cost.pretrain_flops)
    if not all(math.isfinite(n) and n >= 0 for n in (*sizes, *(f or 0.0 for f in flops))):
        raise ValueError("a cost must be a number of at least 0")
    return cost
