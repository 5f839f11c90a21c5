"""A new DistributedModelParallel around a model that gained or lost a collection of tables."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping

from torchrec.distributed.model_parallel import DistributedModelParallel, get_unwrapped_module
from torchrec.distributed.types import ModuleShardingPlan, ShardingPlan

from torchrec_gr.training.freeze import freeze_for_good
from torchrec_gr.training.sharders import sharders


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
