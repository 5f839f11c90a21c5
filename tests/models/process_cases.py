"""Two processes train each model in TorchRec's pipeline; what they end with goes to a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embedding_types import ModuleSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise, table_wise
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardingPlan
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

WORLD_SIZE, LEARNING_RATE = 2, 0.1

Build = Callable[[], nn.Module]


def train_in_processes(
    build: dict[str, Build], batches: dict[str, list[list[Any]]], work_dir: Path
) -> dict[str, dict[str, Tensor]]:
    """The state of each model after its batches, [step][rank], in a process group started once."""
    torch.save((build, batches), work_dir / "cases.pt")
    multiprocessing.spawn(_train_all, args=(work_dir,), nprocs=WORLD_SIZE)
    return torch.load(work_dir / "states.pt")


def train_in_one(model: nn.Module, batches: list[list[Any]]) -> dict[str, Tensor]:
    """The same, without sharding, pipeline or processes: the mean over both ranks' units."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    for of_step in batches:
        optimizer.zero_grad()
        results = [model(batch) for batch in of_step]
        num_units = sum(output.num_units for _, output in results)
        sum(loss * output.num_units / num_units for loss, output in results).backward()
        optimizer.step()
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def _train_all(rank: int, work_dir: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(work_dir / "store"), WORLD_SIZE)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD_SIZE)
    build, batches = torch.load(work_dir / "cases.pt", weights_only=False)
    states = {name: _train(build[name](), batches[name], rank) for name in build}
    if rank == 0:
        torch.save(states, work_dir / "states.pt")
    dist.barrier()
    dist.destroy_process_group()


def _train(model: nn.Module, batches: list[list[Any]], rank: int) -> dict[str, Tensor]:
    pipeline = TrainPipelineSparseDist(*_shard(model), torch.device("cpu"))
    of_rank = iter([of_step[rank] for of_step in batches])
    for _ in batches:
        pipeline.progress(of_rank)
    return {name: _whole(tensor) for name, tensor in pipeline._model.state_dict().items()}


def _shard(model: nn.Module) -> tuple[DistributedModelParallel, KeyedOptimizerWrapper]:
    sharders: list[ModuleSharder[Any]] = [
        EmbeddingCollectionSharder(),
        EmbeddingBagCollectionSharder(),
    ]
    plan = {}
    for path, module in model.named_modules():
        for sharder, cut in zip(sharders, (row_wise(), table_wise(rank=1)), strict=True):
            if type(module) is sharder.module_type:
                tables = [name.split(".")[-2] for name, _ in module.named_parameters()]
                apply_optimizer_in_backward(
                    torch.optim.SGD, module.parameters(), {"lr": LEARNING_RATE}
                )
                plan[path] = construct_module_sharding_plan(
                    module, dict.fromkeys(tables, cut), sharder, device_type="cpu"
                )
    whole = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    dmp = DistributedModelParallel(
        model, device=torch.device("cpu"), plan=ShardingPlan(plan), sharders=sharders
    )
    dmp.load_state_dict(whole)
    dense = dict(in_backward_optimizer_filter(dmp.named_parameters()))
    return dmp, KeyedOptimizerWrapper(dense, lambda p: torch.optim.SGD(p, lr=LEARNING_RATE))


def _whole(tensor: Tensor | ShardedTensor) -> Tensor:
    """On rank 0 the whole tensor; on the others anything."""
    if not isinstance(tensor, ShardedTensor):
        return tensor.detach()
    whole = torch.empty(tensor.size())
    tensor.gather(0, whole if dist.get_rank() == 0 else None)
    return whole
