"""Rankers with a tuned PinFM module and their batches; what two processes make of uneven ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn

from tests.pretrained.attaching.attach_cases import KEYS, build, impressions
from tests.pretrained.attaching.pinfm_cases import with_keys
from torchrec_gr import attach_pretrained
from torchrec_gr.pretrained.tuning.pinfm_tuning import PinFMTuning
from torchrec_gr.pretrained.tuning.tuned_ranker import TunedRanker
from torchrec_gr.sequences.request_batch import ImpressionBatch

LR = 0.1
CASES: dict[str, dict[str, Any]] = {
    "head": {"ranking_weight": 0.5, "agreement_weight": 2.0},
    "inside": {"content": {"topic": 4}, "next_token_weight": 0.3, "alignment_weight": 0.2},
}
ROWS: list[tuple[list[list[int]], list[int | None]]] = [
    ([[1, 2, 3], [1, 2, 3], [4, 7, 9], [], []], [4, 5, 6, 7, None]),
    ([[7, 9], [8, 9, 9], [5, 1, 6, 2], [5, 1, 6, 2], [3]], [1, 1, 2, 6, 7]),
    ([[2], [], [], [], []], [3, None, None, None, None]),
]
"""Steps of histories and candidates; rows without a candidate fill the batch up."""


def batch(step: int) -> ImpressionBatch:
    """One of `ROWS`."""
    histories, candidates = ROWS[step]
    topics = [[] if item is None else [item % 4] for item in candidates]
    ages = [[] if item is None else [6 * item] for item in candidates]
    given = with_keys(impressions(histories, candidates, seed=step), topic=topics, age=ages)
    rows = torch.arange(len(candidates))
    return ImpressionBatch(
        dense_features=given.dense_features,
        sparse_features=given.sparse_features,
        labels=given.labels,
        weights=torch.tensor([float(item is not None) for item in candidates]),
        user_ids=rows,
        source_rows=rows,
    )


def attach(artefact: Any, **tuning: Any) -> Any:
    """TorchRec's DLRM with the module."""
    options: dict[str, Any] = {**KEYS, "strategy": "full", "tuning": PinFMTuning(**tuning)}
    torch.manual_seed(11)
    return attach_pretrained(build("dlrm"), artefact, **options)


def tuned(artefact: Any, **tuning: Any) -> TunedRanker:
    """Of random weights, the same at every call."""
    model = attach(artefact, **tuning)
    torch.manual_seed(12)
    return TunedRanker(model)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Of every parameter; zeros where the loss does not reach it."""
    named = {name: w for name, w in model.named_parameters() if w.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(weight) if gradient is None else gradient
        for (name, weight), gradient in zip(named.items(), found, strict=True)
    }


def in_two_processes(artefact: Path, work_dir: Path) -> dict[str, dict[str, Tensor]]:
    """By case the gradients, averaged over two processes that hold the steps 0 and 2."""
    multiprocessing.spawn(_run, args=(artefact, work_dir), nprocs=2)
    return torch.load(work_dir / "gradients.pt")


def _run(rank: int, artefact: Path, work_dir: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(work_dir / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = {case: _averaged(artefact, rank, options) for case, options in CASES.items()}
    if rank == 0:
        torch.save(found, work_dir / "gradients.pt")
    dist.barrier()
    dist.destroy_process_group()


def _averaged(artefact: Path, rank: int, options: dict[str, Any]) -> dict[str, Tensor]:
    ranker = tuned(artefact, **options)
    found = gradients(ranker, ranker(batch(2 * rank))[0])
    for gradient in found.values():
        dist.all_reduce(gradient)
        gradient /= 2
    return found
