"""Measures what boosted trees cost, in a process that did nothing before.

latency     of the requests that models are timed on, features of the past computed for each.
memory      the resident set at its peak while features are computed and trees are grown, above what
            it was before.
checkpoint  the trees as LightGBM saves them; what training rows said of ids is not in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.baselines.boosted_trees import BoostedTrees, TreeSettings, train_trees
from pipelines.benchmarking.candidate_requests import candidate_requests
from pipelines.benchmarking.cost import Cost
from pipelines.benchmarking.measuring import NUM_CANDIDATES, NUM_REQUESTS, latency
from pipelines.configuration.config import build, to_plain
from pipelines.configuration.settings import Settings
from pipelines.stages.open_log import open_log
from torchrec_gr.sequences.request_batch import RequestBatch
from torchrec_gr.training.peak_memory import in_own_process, peak_bytes
from torchrec_gr.training.process_group import process_group


def measure_trees(settings: Settings, work_dir: Path, trees: TreeSettings) -> Cost:
    """Grows trees once more, in a process of its own with as many threads as this one.

    Args:
        settings: with the log.
        work_dir: where the log is prepared.
        trees: how they grow.
    """
    return in_own_process(_measure, to_plain(settings), work_dir, dataclasses.asdict(trees))


def _measure(plain: Mapping[str, Any], work_dir: Path, trees: Mapping[str, Any]) -> Cost:
    settings = build(Settings, plain)
    grown: list[BoostedTrees] = []
    with contextlib.redirect_stdout(io.StringIO()), process_group("cpu"):
        log = open_log(settings, work_dir)
        as_of = settings.history_as_of
        peak = peak_bytes(lambda: grown.append(train_trees(log, TreeSettings(**trees), 0, as_of)))
        (model,) = grown

        def score(batch: RequestBatch) -> Tensor:
            return torch.from_numpy(model.score(batch))

        timed = {n: candidate_requests(log, NUM_REQUESTS, n, as_of) for n in NUM_CANDIDATES}
        return Cost(
            latency_ms={n: latency(score, requests) for n, requests in timed.items()},
            peak_memory_bytes=peak,
            checkpoint_bytes=model.size_bytes,
        )
