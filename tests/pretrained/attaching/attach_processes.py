"""What processes do with a sharded model that a module is attached to, and taken off."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.datasets.utils import Batch
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim.keyed import KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from tests.pretrained.attaching.attach_cases import KEYS, build, impressions, scores
from torchrec_gr import attach_pretrained, attachment, detach_pretrained
from torchrec_gr.training.freeze import frozen_names
from torchrec_gr.training.optimizer import TableOptimizer
from torchrec_gr.training.sharding import shard

LR = 0.1
SGD = TableOptimizer("sgd", lr=LR)
BATCHES: list[list[tuple[list[list[int]], list[int | None]]]] = [
    [([[1, 2, 3], [1, 2, 3], []], [4, 5, 6]), ([[7], [], [8, 9, 9]], [1, 1, 2])],
    [([[2], [2], [2]], [3, 4, 5]), ([[], [], []], [None, None, None])],
    [(([list(range(9)), [4, 4], [5]]), [0, 9, None]), ([[6, 1], [6, 1], [3]], [7, 8, 7])],
    [([[3, 1], [], [2]], [1, 2, 3]), ([[1], [1], [1]], [9, 9, 9])],
]
"""Steps of two processes, three impressions each."""


def batch(step: int, rank: int | None = None) -> Batch:
    """Of one process; None: of both."""
    parts = BATCHES[step] if rank is None else [BATCHES[step][rank]]
    histories = [row for part in parts for row in part[0]]
    candidates = [candidate for part in parts for candidate in part[1]]
    return impressions(histories, candidates, seed=step, first_row=3 * (rank or 0))


def in_two_processes(artefact: Path, work_dir: Path) -> dict[str, Any]:
    """What every case gave on the first process."""
    multiprocessing.spawn(_run, args=(artefact, work_dir), nprocs=2)
    return torch.load(work_dir / "results.pt", weights_only=False)


def _run(rank: int, artefact: Path, work_dir: Path) -> None:
    torch.set_num_threads(1)
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    store = dist.FileStore(str(work_dir / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    results = {name: case(artefact) for name, case in CASES.items()}
    if rank == 0:
        torch.save(results, work_dir / "results.pt")
    dist.barrier()
    dist.destroy_process_group()


def sharded(model: nn.Module, optimizer: TableOptimizer = SGD) -> DistributedModelParallel:
    return shard(model, device=torch.device("cpu"), table_optimizer=optimizer)


def attach(model: nn.Module, artefact: Path, **options: Any) -> Any:
    return attach_pretrained(model, artefact, **{**KEYS, "strategy": "full", **options})


def train(model: DistributedModelParallel, steps: range) -> int:
    """Trains in TorchRec's pipeline; gives the number of collections that were pipelined."""
    unfused = dict(in_backward_optimizer_filter(model.named_parameters()))
    dense = {name: weight for name, weight in unfused.items() if weight.requires_grad}
    optimizer = KeyedOptimizerWrapper(dense, lambda weights: torch.optim.SGD(weights, lr=LR))
    pipeline = TrainPipelineSparseDist(model, optimizer, torch.device("cpu"))
    batches = iter([batch(step, dist.get_rank()) for step in steps])
    for _ in steps:
        pipeline.progress(batches)
    num_pipelined = len(pipeline._pipelined_modules)
    pipeline.detach()
    return num_pipelined


def whole(model: nn.Module) -> dict[str, Tensor]:
    """The state dict; on other processes than the first, of tables anything."""
    return {name: _whole(entry) for name, entry in model.state_dict().items()}


def _whole(entry: Tensor | ShardedTensor) -> Tensor:
    if not isinstance(entry, ShardedTensor):
        return entry.detach().clone()
    tensor = torch.empty(entry.size())
    entry.gather(0, tensor if dist.get_rank() == 0 else None)
    return tensor


def scored(model: nn.Module) -> list[Tensor]:
    """Of every batch of this process, in evaluation."""
    model.eval()
    with torch.no_grad():
        found = [scores("train", model, batch(step, dist.get_rank())) for step in range(4)]
    model.train()
    return found


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """On all processes."""
    equal = all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    return bool(_on_all(equal))


def _on_all(value: bool) -> bool:
    found = torch.tensor(value)
    dist.all_reduce(found, dist.ReduceOp.MIN)
    return bool(found)


def attached_before(artefact: Path) -> dict[str, Any]:
    """Attached, then sharded."""
    model = sharded(attach(build("train"), artefact))
    pipelined = train(model, range(4))
    return {"weights": whole(model), "pipelined": pipelined}


def attached_after(artefact: Path) -> dict[str, Any]:
    """Sharded, trained, attached, trained on, taken off, trained on."""
    model = sharded(build("train"))
    train(model, range(1))
    own, dense = scored(model), _dense(model)
    model = attach(model, artefact, table_optimizer=SGD)
    kept = all(weight is _dense(model)[name] for name, weight in dense.items())
    bits = same(scored(model), own)
    pipelined = train(model, range(1, 3))
    weights, plan = whole(model), sorted(model.plan.plan)
    names = sorted(attachment(model).dense)
    model = detach_pretrained(model)
    train(model, range(3, 4))
    return {
        "weights": weights,
        "pipelined": pipelined,
        "same bits": bits,
        "same parameters": kept,
        "plan": plan,
        "names": names,
        "taken off": whole(model),
        "plan without": sorted(model.plan.plan),
    }


def _dense(model: DistributedModelParallel) -> dict[str, nn.Parameter]:
    return {n: w for n, w in model.named_parameters() if "embedding" not in n}


def never_trained(artefact: Path) -> bool:
    """Attached and taken off again, after the model was trained."""
    model = sharded(build("train"))
    train(model, range(2))
    before = scored(model)
    return same(scored(detach_pretrained(attach(model, artefact, table_optimizer=SGD))), before)


def optimizer_state(artefact: Path) -> dict[str, Any]:
    """Row-wise Adagrad's, of the model's own tables."""
    model = sharded(build("train"), TableOptimizer("rowwise_adagrad", lr=LR))
    train(model, range(2))
    before = _state(model)
    model = attach(model, artefact, table_optimizer=TableOptimizer("rowwise_adagrad", lr=LR))
    after = _state(model)
    equal = all(torch.equal(of, after[name]) for name, of in before.items())
    new = any(".pretrained_" in name for name in after)
    return {"equal": _on_all(equal and any(of.any() for of in before.values())), "new": new}


def _state(model: DistributedModelParallel) -> dict[str, Tensor]:
    state = model.fused_optimizer.state_dict()["state"]
    return {
        f"{name} {key}": shards.local_shards()[0].tensor.clone()
        for name, of in state.items()
        for key, shards in of.items()
        if shards.local_shards()
    }


def frozen(artefact: Path) -> dict[str, Any]:
    """The tables keep every bit, attached before and after."""
    results: dict[str, Any] = {}
    for when in ("before", "after"):
        if when == "before":
            model = sharded(attach(build("train"), artefact, strategy="full-freeze"))
        else:
            model = attach(sharded(build("train")), artefact, strategy="full-freeze")
        tables = {n for n in model.state_dict() if ".pretrained_" in n}
        before = whole(model)
        train(model, range(4))
        after = whole(model)
        results[when] = {
            "frozen": frozen_names(model) == tables,
            "unmoved": {n for n in before if torch.equal(before[n], after[n])} == tables,
        }
    return results


def earlier_state(artefact: Path) -> dict[str, Any]:
    """A state dict of the sharded model from before loads into it with a module attached."""
    earlier = sharded(build("train", seed=9))
    model = attach(sharded(build("train")), artefact, table_optimizer=SGD)
    before = whole(model)
    result = model.load_state_dict(earlier.state_dict())
    return {
        "missing": list(result.missing_keys) + list(result.unexpected_keys),
        "expected": before | whole(earlier),
        "weights": whole(model),
        "same bits": same(scored(model), scored(earlier)),
    }


CASES = {
    "before": attached_before,
    "after": attached_after,
    "never trained": never_trained,
    "optimizer state": optimizer_state,
    "frozen": frozen,
    "earlier state": earlier_state,
}
