"""Takes a model out of its DistributedModelParallel, and puts it changed into a new one."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping

from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel, get_unwrapped_module
from torchrec.distributed.train_pipeline.runtime_forwards import BaseForward
from torchrec.distributed.types import ModuleShardingPlan, ShardingPlan

from torchrec_gr.training.freeze import freeze_for_good
from torchrec_gr.training.sharders import sharders


def unwrapped(model: nn.Module) -> nn.Module:
    """What a DistributedModelParallel holds, or the model itself.

    Raises:
        ValueError: it is wrapped otherwise, or a train pipeline has hold of it.
    """
    inner = get_unwrapped_module(model)
    if inner is not model and not isinstance(model, DistributedModelParallel):
        raise ValueError(
            f"the model is wrapped in {type(model).__name__}, which knows its parameters by now: "
            "give the model inside, and wrap it afterwards"
        )
    if any(isinstance(vars(module).get("forward"), BaseForward) for module in inner.modules()):
        raise ValueError(
            "a train pipeline has hold of the model's collections: call pipeline.detach() first, "
            "and make a new pipeline afterwards"
        )
    return inner


def rewrap(
    old: DistributedModelParallel, plan: Mapping[str, ModuleShardingPlan], frozen: Iterable[str]
) -> DistributedModelParallel:
    """Replicates anew what is not a table; sharded collections stay what they are.

    They keep their weights and optimizer state, and dense parameters stay the same objects.

    Args:
        old: holds the model, with a sharded collection more, or less, than it was made for; not to
            be used any more.
        plan: of all collections, by path.
        frozen: names of the tables that are frozen for good.
    """
    model = old._dmp_wrapped_module = get_unwrapped_module(old)
    gc.collect()  # what replicated it waits for gradients as long as it lives
    new = DistributedModelParallel(
        model,
        env=old._env,
        device=old.device,
        plan=ShardingPlan(dict(plan)),
        sharders=[*old.sharders, *sharders()],
        init_data_parallel=old._ddp_wrapped,
        init_parameters=old.init_parameters,
        data_parallel_wrapper=old._data_parallel_wrapper,
    )
    freeze_for_good(new, frozen)
    return new
