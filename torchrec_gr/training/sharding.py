"""Shards a model over the process group and gives its tables their optimizers."""

from __future__ import annotations

import types
from typing import Literal, get_args

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    DenseTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn
from torch.nn.functional import embedding
from torchrec.distributed.batched_embedding_kernel import BatchedDenseEmbedding
from torchrec.distributed.embedding import EmbeddingCollectionSharder, ShardedEmbeddingCollection
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import (
    ParameterShardingGenerator,
    column_wise,
    construct_module_sharding_plan,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ModuleSharder, ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from torchrec_gr.training.freeze import has_fused_optimizer
from torchrec_gr.training.optimizer import TableOptimizer, fuse_table_optimizer
from torchrec_gr.training.process_group import local_world_size
from torchrec_gr.training.tables import table_collections, table_weights

Sharding = Literal["table_wise", "row_wise", "column_wise"]

_COLUMNS = 4
"""fbgemm reads columns in groups of so many."""


class _BagSharder(EmbeddingBagCollectionSharder):
    """The stock sharder, which runs ROW_WISE on CPU but does not offer it there."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        return list(get_args(Sharding))


def shard(
    model: nn.Module,
    *,
    device: torch.device,
    table_optimizer: TableOptimizer,
    sharding: Sharding | None = None,
) -> DistributedModelParallel:
    """Shards a model's tables over the process group; what is not a table is replicated.

    Weights keep their values, frozen tables (see `freeze_tables`) stay frozen. Every process must
    pass a model of the same weights.

    Args:
        model: holds its tables in EmbeddingCollections or EmbeddingBagCollections, anywhere.
        device: where to train, as `process_group` gives it.
        table_optimizer: of all tables that are not frozen; pass the same to `build_optimizer`.
        sharding: of all tables. Default: row-wise in an EmbeddingCollection, which splits one large
            item table over all processes; table-wise in an EmbeddingBagCollection, whose row-wise
            form needs as many rows a batch on every process (pad the loader's batches for it).

    Raises:
        ValueError: no table, or a sharding and an optimizer that do not fit.
    """
    if sharding is not None and sharding not in get_args(Sharding):
        raise ValueError(f"unknown sharding {sharding!r}: expected one of {get_args(Sharding)}")
    collections = table_collections(model)
    _fuse_optimizers(model, table_optimizer, sharding)
    weights = dict(model.state_dict())
    sharders: list[ModuleSharder[nn.Module]] = [EmbeddingCollectionSharder(), _BagSharder()]
    plan = ShardingPlan(
        {path: _plan(module, sharding, device) for path, module in collections.items()}
    )
    sharded = DistributedModelParallel(model, device=device, plan=plan, sharders=sharders)
    # An EmbeddingBagCollection's shards start from new random values on CPU.
    sharded.load_state_dict(weights)
    _read_rows_on_cpu(sharded)
    return sharded


def _fuse_optimizers(
    model: nn.Module, optimizer: TableOptimizer, sharding: Sharding | None
) -> None:
    if sharding == "column_wise" and optimizer.name == "rowwise_adagrad":
        raise ValueError(
            "column_wise sharding does not fit rowwise_adagrad: each shard would take the mean of "
            "its own columns, so results would depend on the number of processes; use another "
            "table optimizer, or shard row_wise or table_wise"
        )
    for weight in table_weights(model).values():
        if not has_fused_optimizer(weight):
            fuse_table_optimizer(weight, optimizer)


def _plan(
    module: EmbeddingCollection | EmbeddingBagCollection,
    sharding: Sharding | None,
    device: torch.device,
) -> EmbeddingModuleShardingPlan:
    bags = isinstance(module, EmbeddingBagCollection)
    kind = sharding or ("table_wise" if bags else "row_wise")
    weights = table_weights(module)
    owners = _owners({table: weight.numel() for table, weight in weights.items()})
    return construct_module_sharding_plan(
        module,
        {table: _generator(kind, weight, owners[table]) for table, weight in weights.items()},
        sharder=_BagSharder() if bags else EmbeddingCollectionSharder(),
        local_size=local_world_size(),
        world_size=dist.get_world_size(),
        device_type=device.type,
    )


def _generator(kind: Sharding, weight: nn.Parameter, owner: int) -> ParameterShardingGenerator:
    if kind == "row_wise":
        return row_wise()
    if kind == "table_wise":
        return table_wise(rank=owner)
    return column_wise(ranks=list(range(_num_column_shards(weight.shape[1]))))


def _num_column_shards(dim: int) -> int:
    """As many equal shards as there are processes, or fewer if fbgemm could not read them."""
    counts = range(1, dist.get_world_size() + 1)
    return max(count for count in counts if count == 1 or dim % (count * _COLUMNS) == 0)


def _owners(sizes: dict[str, int]) -> dict[str, int]:
    """The process that holds each table: largest tables first, each to the least loaded."""
    load = [0] * dist.get_world_size()
    owners = {}
    for table in sorted(sizes, key=lambda table: (-sizes[table], table)):
        owners[table] = load.index(min(load))
        load[owners[table]] += sizes[table]
    return owners


def _read_rows_on_cpu(model: nn.Module) -> None:
    """Lets an EmbeddingCollection's tables without a fused optimizer be read on CPU.

    fbgemm's dense CPU kernel sums each request's rows even where no pooling was asked for.
    """
    collections = [m for m in model.modules() if isinstance(m, ShardedEmbeddingCollection)]
    lookups = [lookup for collection in collections for lookup in collection._lookups]
    for batched in (module for lookup in lookups for module in lookup.modules()):
        if isinstance(batched, BatchedDenseEmbedding) and batched.emb_module.use_cpu:
            kernel = batched.emb_module
            kernel.forward = types.MethodType(_dense_rows, kernel)  # type: ignore[method-assign]


def _dense_rows(
    kernel: DenseTableBatchedEmbeddingBagsCodegen, indices: Tensor, offsets: Tensor
) -> Tensor:
    """[values, dim]: the rows of all features' tables, which share one width."""
    num_features = kernel.hash_size_cumsum.numel() - 1
    stride = (offsets.numel() - 1) // num_features
    num_values = offsets[stride::stride] - offsets[:-1:stride]
    first_row = kernel.hash_size_cumsum[:-1].repeat_interleave(num_values)
    return embedding(indices + first_row, kernel.weights.view(-1, kernel.max_D))
