"""Measures what a model costs, in a process that did nothing before.

FLOPs       of a few training steps on real batches, forward and backward, as
            `torch.utils.flop_counter` counts them: products alone, those of our ops by their
            own formulas; lookups, activations and optimizers count nothing.
latency     of requests of real users, one at a time, from tensors to scores, with weights in
            one piece as a server has them: the flattening of requests into impressions is in
            it, reading and hashing raw ids are not.
memory      the resident set at its peak in those training steps, above what it was before the
            model was built; on a GPU what torch allocated at most.
checkpoint  the files of one, as training writes it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipelines.benchmarking.candidate_requests import candidate_requests, in_rows
from pipelines.benchmarking.cost import Cost
from pipelines.configuration.config import build, to_plain
from pipelines.configuration.model_name import Module, parse_model
from pipelines.configuration.settings import Settings, WindowStage
from pipelines.configuration.variants import lay_over
from pipelines.pretrain import pretrain
from pipelines.stages.open_log import as_read, open_log
from pipelines.stages.rankers import Ranker, build_ranker
from pipelines.stages.ranking_run import start_ranking
from pipelines.stages.reading import RowReading
from pipelines.stages.transferring import FirstWeights
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.models.hstu_ranker import HSTURanker
from torchrec_gr.models.hstu_ranker_scoring import encode_histories, score_candidates
from torchrec_gr.sequences.impressions import to_impressions
from torchrec_gr.sequences.request_batch import RequestBatch
from torchrec_gr.training.checkpoint import latest_checkpoint
from torchrec_gr.training.limit import Limit
from torchrec_gr.training.peak_memory import in_own_process, peak_bytes
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.trainer import EpochProgress

T = TypeVar("T")

NUM_CANDIDATES = (1, 100, 1000)

_EXAMPLES, _COUNTED_EXAMPLES, _COUNTED_SEQUENCES = 10_000, 4_000, 512
"""Trained on to measure memory and FLOPs; fewer where the log has fewer."""

NUM_REQUESTS = 30
_CALLS = {1: 300, 100: 150, 1000: 40}
_SECONDS = 8.0
"""Most that the calls of one number of candidates may take; a slow model is called less often."""


def measure_cost(
    settings: Settings, work_dir: Path, *, model: str, dim: int, module: Module | None = None
) -> Cost:
    """Measures a ranker from scratch in a process of its own, with as many threads as this one.

    Args:
        settings: as `start_ranking` takes them.
        work_dir: where the log is prepared.
        model: as `parse_model` takes it.
        dim: width of its tables.
        module: what is pretrained for it; None: nothing is.
    """
    return in_own_process(_measure, to_plain(settings), work_dir, model, dim, module)


def _measure(
    plain: Mapping[str, Any], work_dir: Path, model: str, dim: int, module: Module | None
) -> Cost:
    settings = build(Settings, plain)
    silent = contextlib.redirect_stdout(io.StringIO())  # what is read and trained is no run's
    with silent, process_group(settings.device) as device:
        log = open_log(settings, work_dir)
        peak, checkpoint = _training_memory(log, settings, model, dim, device)
        name = parse_model(model, settings.variants)
        own = lay_over(settings, name.variant)
        ranker = build_ranker(name, as_read(log, own), own, dim, 0, FirstWeights())
        score = scorer(ranker, device)
        timed = {n: requests_for(as_read(log, own), own, ranker, n, device) for n in NUM_CANDIDATES}
        with torch.no_grad():
            _, counted = _flops(lambda: score(timed[100][0]))
        return Cost(
            train_flops=_training_flops(log, settings, model, dim, device),
            score_flops=counted / timed[100][0].source_rows.numel(),
            latency_ms={n: latency(score, timed[n]) for n in NUM_CANDIDATES},
            peak_memory_bytes=peak,
            checkpoint_bytes=checkpoint,
            pretrain_flops=None
            if module is None
            else _pretraining_flops(log, own, dim, module, device),
        )


def scorer(ranker: Ranker, device: torch.device) -> Callable[[RequestBatch], Tensor]:
    """How a server would score one request's candidates: [C, tasks] or [C] logits.

    Impression-level models get a row for each candidate; rankers of windows, whose rows have room
    for so many candidates, several rows; HSTU keeps the history's keys and values (M-FALCON).
    """
    module: nn.Module = ranker.module.to(device).eval()
    stage = ranker.stage
    if isinstance(module, HSTURanker):
        assert isinstance(stage, WindowStage)
        most = stage.max_candidates
        return lambda batch: score_candidates(
            module, encode_histories(module, batch), batch, micro_batch=most
        )
    if isinstance(stage, WindowStage):
        most = stage.max_candidates
        return lambda batch: module(in_rows(batch, most))[1].logits
    if isinstance(ranker.reading, RowReading) and ranker.reading.view == "impressions":
        return lambda batch: module(to_impressions(batch))[1].logits
    return lambda batch: module(batch)[1].logits


def requests_for(
    log: PreparedLog, settings: Settings, ranker: Ranker, num_candidates: int, device: torch.device
) -> list[RequestBatch]:
    """The requests that a ranker is timed on: real users', as its own loader would have them."""
    stage, as_of = ranker.stage, settings.history_as_of
    hours = stage.real_time_hours if isinstance(stage, WindowStage) else None
    found = candidate_requests(log, NUM_REQUESTS, num_candidates, as_of, hours)
    return [batch.to(device) for batch in found]


def latency(
    score: Callable[[RequestBatch], Tensor], requests: Sequence[RequestBatch]
) -> tuple[float, float]:
    """Median and 99th percentile of a request in milliseconds.

    Args:
        score: the logits of a request's candidates.
        requests: with one of the numbers of candidates in `NUM_CANDIDATES`, called in turn.
    """
    milliseconds: list[float] = []
    num_calls = _CALLS[requests[0].source_rows.numel()]
    with torch.no_grad():
        for batch in requests[:20]:
            score(batch)
        end = time.perf_counter() + _SECONDS
        while len(milliseconds) < num_calls and time.perf_counter() < end:
            batch = requests[len(milliseconds) % len(requests)]
            began = time.perf_counter()
            score(batch).sum().item()  # of a GPU, waits until it is there
            milliseconds.append(1000 * (time.perf_counter() - began))
    median, late = np.percentile(milliseconds, (50, 99))
    return float(median), float(late)


def _train(
    log: PreparedLog,
    settings: Settings,
    model: str,
    dim: int,
    device: torch.device,
    num_examples: float,
    run_dir: Path | None = None,
) -> EpochProgress:
    run = start_ranking(
        log,
        settings,
        run_dir,
        model=model,
        dim=dim,
        seed=0,
        device=device,
        first=FirstWeights(),
        limit=Limit(examples=num_examples),
    )
    return run.trainer.train_epoch()


def _training_memory(
    log: PreparedLog, settings: Settings, model: str, dim: int, device: torch.device
) -> tuple[int, int]:
    """Bytes that training takes at its peak, and those of a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        train = functools.partial(
            _train, log, settings, model, dim, device, _EXAMPLES, Path(folder)
        )
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            train()
            peak = int(torch.cuda.max_memory_allocated(device))
        else:
            peak = peak_bytes(train)
        checkpoint = latest_checkpoint(Path(folder))
        assert checkpoint is not None, "an epoch leaves one"
        return peak, sum(f.stat().st_size for f in checkpoint.rglob("*") if f.is_file())


def _training_flops(
    log: PreparedLog, settings: Settings, model: str, dim: int, device: torch.device
) -> float:
    progress, counted = _flops(lambda: _train(log, settings, model, dim, device, _COUNTED_EXAMPLES))
    return counted / progress.num_examples


def _pretraining_flops(
    log: PreparedLog, settings: Settings, dim: int, module: Module, device: torch.device
) -> float:
    with tempfile.TemporaryDirectory() as folder:
        pretrained, counted = _flops(
            lambda: pretrain(
                log,
                settings,
                Path(folder),
                dim=dim,
                seed=0,
                users="all",
                device=device,
                module=module,
                limit=Limit(examples=_COUNTED_SEQUENCES),
            )
        )
    return counted / pretrained.num_examples


def _flops(run: Callable[[], T]) -> tuple[T, float]:
    """What a call gives, and the FLOPs that it takes."""
    with FlopCounterMode(display=False) as counter:
        result = run()
    return result, float(counter.get_total_flops())
