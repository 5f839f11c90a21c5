"""Plans which process holds which rows of which table."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    Enumerator,
    KernelConfig,
    ParameterConstraints,
    Perf,
    PlannerError,
    Proposer,
    SharderDataMap,
    ShardEstimator,
    ShardingOption,
    Storage,
    Topology,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.sharding_plan import (
    ParameterShardingGenerator,
    column_wise,
    construct_module_sharding_plan,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from torchrec_gr.training.freeze import has_fused_optimizer
from torchrec_gr.training.memory import free_memory
from torchrec_gr.training.process_group import local_world_size
from torchrec_gr.training.sharders import sharder_of, sharders
from torchrec_gr.training.table_bytes import bytes_each, row_bytes, shortage, size
from torchrec_gr.training.tables import Collection, table_collections, table_weights

Sharding = Literal["table_wise", "row_wise", "column_wise"]

_log = logging.getLogger(__name__)

_PREFERRED: dict[type[nn.Module], tuple[Sharding, ...]] = {
    EmbeddingCollection: ("row_wise",),
    EmbeddingBagCollection: ("table_wise", "row_wise"),
}
"""How a collection's tables are sharded where nothing is asked for: the first that fits. Those of a
type that is not here, as its sharder offers."""

_TABLE_SHARE = 0.8
"""Of the free memory; the rest is for dense parameters, batches and what passes between them."""

_COLUMNS = 4
"""fbgemm reads columns in groups of so many."""


def plan_tables(
    model: nn.Module,
    *,
    device: torch.device,
    sharding: Sharding | None = None,
    max_table_bytes: int | None = None,
) -> ShardingPlan:
    """Plans a model's tables, alike on all processes.

    With a `sharding`, all are sharded so that can be, whether or not they fit; table-wise, the
    largest come first, each to the process that holds least.

    Otherwise TorchRec's planner sees to it that each process's tables fit its memory. An
    EmbeddingCollection's are sharded row-wise. An EmbeddingBagCollection's stay whole, placed as
    above; where that does not fit, the largest become row-wise, as many as must.

    Args:
        model: not sharded yet; its tables have their fused optimizers, and those that have none
            will be trained by a dense AdamW.
        device, sharding, max_table_bytes: see `shard`.

    Raises:
        ValueError: nothing fits; it says how much is missing and what would help.
    """
    if sharding is None:
        plan = _plan_by_memory(model, device, max_table_bytes)
    else:
        plan = {
            path: _module_plan(module, sharding, device)
            for path, module in table_collections(model).items()
        }
    return ShardingPlan(plan)


def _plan_by_memory(
    model: nn.Module, device: torch.device, max_table_bytes: int | None
) -> dict[str, EmbeddingModuleShardingPlan]:
    limit = max_table_bytes or int(_TABLE_SHARE * free_memory(device))
    counted = {
        table: weight
        for module in table_collections(model).values()
        for table, weight in sharder_of(module).shardable_parameters(module).items()
    }
    try:
        plan = _planner(model, device, limit).plan(model, sharders()).plan
    except PlannerError:
        if bytes_each(counted, dist.get_world_size()) <= limit:
            raise
        raise ValueError(shortage(counted, dist.get_world_size(), limit)) from None
    weights = table_weights(model)
    for tables in plan.values():
        for table, placed in tables.items():
            # The planner knows no dense kernel but that of DATA_PARALLEL.
            if not has_fused_optimizer(weights[table]):
                placed.compute_kernel = EmbeddingComputeKernel.DENSE.value
    _warn_of_split_bags(model, plan, limit)
    return plan


def _planner(model: nn.Module, device: torch.device, limit: int) -> EmbeddingShardingPlanner:
    on_gpu = device.type != "cpu"
    topology = TopologyFactory.create_topology(
        TrainerConfig(
            world_size=dist.get_world_size(),
            local_world_size=local_world_size(),
            hbm_cap_bytes=limit if on_gpu else 0,
            ddr_cap_bytes=0 if on_gpu else limit,
            ssd_cap_bytes=0,
        ),
        kernel_config=KernelConfig(compute_device=device.type),
    )
    constraints = {
        table: ParameterConstraints(
            sharding_types=list(_PREFERRED[type(module)]),
            compute_kernels=[EmbeddingComputeKernel.FUSED.value],
        )
        for module in table_collections(model).values()
        if type(module) in _PREFERRED
        for table in table_weights(module)
    }
    return EmbeddingShardingPlanner(
        topology,
        enumerator=EmbeddingEnumerator(
            topology, batch_size=1, constraints=constraints, estimator=_TableBytes(topology)
        ),
        storage_reservation=FixedPercentageStorageReservation(0.0),
        proposer=_WholeWhereItFits(),
        stats=[],
        constraints=constraints,
    )


class _TableBytes(ShardEstimator):
    """Counts what a table's rows and their optimizer state take, as its memory and as its load."""

    def __init__(
        self, topology: Topology, constraints: dict[str, ParameterConstraints] | None = None
    ) -> None:
        self._on_gpu = topology.compute_device != "cpu"

    def estimate(
        self, sharding_options: list[ShardingOption], sharder_data_map: SharderDataMap
    ) -> None:
        for option in sharding_options:
            for shard in option.shards:
                taken = shard.size[0] * row_bytes(option.tensor)
                shard.storage = Storage(hbm=taken * self._on_gpu, ddr=taken * (not self._on_gpu))
                shard.perf = Perf(fwd_compute=taken, fwd_comms=0, bwd_compute=0, bwd_comms=0)


class _WholeWhereItFits(Proposer):
    """Proposes whole tables where they may be whole; then splits the largest, until all fit."""

    def load(
        self, search_space: list[ShardingOption], enumerator: Enumerator | None = None
    ) -> None:
        self._tables: dict[str, list[ShardingOption]] = {}
        for option in search_space:
            self._tables.setdefault(option.fqn, []).append(option)
        for options in self._tables.values():
            # The enumerator takes them out of a set of strings, in another order each run.
            options.sort(key=lambda option: option.sharding_type == "row_wise")
        self._done = False

    def propose(self) -> list[ShardingOption] | None:
        return None if self._done else [options[0] for options in self._tables.values()]

    def feedback(
        self,
        partitionable: bool,
        plan: list[ShardingOption] | None = None,
        perf_rating: float | None = None,
        storage_constraint: Topology | None = None,
    ) -> None:
        whole = [options for options in self._tables.values() if len(options) > 1]
        self._done = partitionable or not whole
        if not self._done:
            max(whole, key=lambda options: options[0].total_perf).pop(0)


def _warn_of_split_bags(
    model: nn.Module, plan: dict[str, EmbeddingModuleShardingPlan], limit: int
) -> None:
    """ROW_WISE bags on gloo need as many rows on each process: a loader must know."""
    split = [
        table
        for path, module in table_collections(model).items()
        if isinstance(module, EmbeddingBagCollection)
        for table, placed in plan[path].items()
        if placed.sharding_type == "row_wise"
    ]
    if split and dist.get_backend() == "gloo" and dist.get_rank() == 0:
        _log.warning(
            "tables %s are sharded row-wise: whole, they do not fit the %s that each process may "
            "give to tables. In an EmbeddingBagCollection on gloo this needs as many rows a batch "
            "on every process: use RequestLoader(..., pad=True), as the pipelines do by themselves",
            split,
            size(limit),
        )


def _module_plan(
    module: Collection, sharding: Sharding, device: torch.device
) -> EmbeddingModuleShardingPlan:
    sharder = sharder_of(module)
    offered = sharder.sharding_types(device.type)
    kind = sharding if sharding in offered else offered[0]
    weights = table_weights(module)
    owners = _owners({table: weight.numel() for table, weight in weights.items()})
    return construct_module_sharding_plan(
        module,
        {table: _generator(kind, weight, owners[table]) for table, weight in weights.items()},
        sharder=sharder,
        local_size=local_world_size(),
        world_size=dist.get_world_size(),
        device_type=device.type,
    )


def _generator(sharding: str, weight: nn.Parameter, owner: int) -> ParameterShardingGenerator:
    if sharding == "row_wise":
        return row_wise()
    if sharding == "table_wise":
        return table_wise(rank=owner)
    return column_wise(ranks=list(range(_num_column_shards(weight.shape[1]))))


def _num_column_shards(dim: int) -> int:
    """As many equal shards as there are processes, or fewer if fbgemm could not read them."""
    counts = range(1, dist.get_world_size() + 1)
    return max(count for count in counts if count == 1 or dim % (count * _COLUMNS) == 0)


def _owners(sizes: Mapping[str, int]) -> dict[str, int]:
    """The process that holds each table: largest tables first, each to the least loaded."""
    load = [0] * dist.get_world_size()
    owners = {}
    for table in sorted(sizes, key=lambda table: (-sizes[table], table)):
        owners[table] = load.index(min(load))
        load[owners[table]] += sizes[table]
    return owners
