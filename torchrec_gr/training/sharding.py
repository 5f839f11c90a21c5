"""Shards a model over the process group and gives its tables their optimizers."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import get_args

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    DenseTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn
from torch.nn.functional import embedding
from torchrec.distributed.batched_embedding_kernel import BatchedDenseEmbedding
from torchrec.distributed.embedding import ShardedEmbeddingCollection
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.model_parallel import DistributedModelParallel

from torchrec_gr.embeddings.dynamic_table import dynamic_tables
from torchrec_gr.training.freeze import (
    freeze,
    freeze_for_good,
    frozen_names,
    has_fused_optimizer,
    release_optimizer,
    replicate,
)
from torchrec_gr.training.fresh_values import fresh_values
from torchrec_gr.training.optimizer import FUSED, TableOptimizer, fuse_table_optimizer
from torchrec_gr.training.parameter_groups import FOR_GOOD, ParameterGroup, group_of
from torchrec_gr.training.plan import Sharding, plan_tables
from torchrec_gr.training.sharders import sharders
from torchrec_gr.training.tables import table_of, table_weights


def shard(
    model: nn.Module,
    *,
    device: torch.device,
    table_optimizer: TableOptimizer,
    sharding: Sharding | None = None,
    max_table_bytes: int | None = None,
    groups: Sequence[ParameterGroup] = (),
) -> DistributedModelParallel:
    """Shards a model's tables over the process group; what is not a table is replicated.

    Weights keep their values, what is frozen (see `freeze`) stays frozen. Every process must pass a
    model of the same weights. A collection that was built on the meta device, as one too large for
    any process must be, is never held whole: each process draws its own shards' first values by
    their tables' `init_fn` (which sees the shard: one that goes by the shape, as Xavier's does,
    would draw from another distribution).

    Args:
        model: holds its tables in EmbeddingCollections or EmbeddingBagCollections, anywhere.
        device: where to train, as `process_group` gives it.
        table_optimizer: of all tables that are not frozen; pass the same to `build_optimizer`.
        sharding: of all tables, whether or not they fit. Default: as memory asks. Row-wise in an
            EmbeddingCollection, which splits one large item table over all processes. Table-wise in
            an EmbeddingBagCollection, as far as its tables fit; the others row-wise, which on gloo
            needs as many rows a batch on every process (pad the loader's batches for it:
            `RequestLoader(..., pad=True)`).
        max_table_bytes: how many bytes of rows and optimizer state each process may hold, where no
            `sharding` is given. Default: four fifths of the memory that is free for it, on the
            process that has least.
        groups: parameters with a learning rate of their own, or that are frozen; pass the same to
            `build_optimizer`.

    Raises:
        ValueError: no table, groups that name nothing or a parameter twice, a sharding and an
            optimizer that do not fit, or tables that do not fit the memory; it says how much is
            missing and what would help.
    """
    if sharding is not None and sharding not in get_args(Sharding):
        raise ValueError(f"unknown sharding {sharding!r}: expected one of {get_args(Sharding)}")
    if max_table_bytes is not None and (sharding is not None or max_table_bytes < 1):
        raise ValueError(
            f"max_table_bytes={max_table_bytes} with sharding={sharding!r}: give a number of bytes "
            "for a sharding by memory, or a sharding of all tables"
        )
    fused = _fuse_optimizers(model, table_optimizer, sharding, groups)
    try:
        plan = plan_tables(model, device=device, sharding=sharding, max_table_bytes=max_table_bytes)
    except ValueError:
        for weight in fused:
            release_optimizer(weight)  # the model may be sharded again, with another optimizer
        raise
    unsharded, frozen = list(table_weights(model).values()), frozen_names(model)
    with fresh_values(model, device):
        weights = {name: w for name, w in model.state_dict().items() if not w.is_meta}
        sharded = DistributedModelParallel(
            model, device=device, plan=plan, sharders=sharders(), init_data_parallel=False
        )
    # An EmbeddingBagCollection's shards start from new random values on CPU.
    sharded.load_state_dict({**sharded.state_dict(), **weights})
    for weight in unsharded:
        release_optimizer(weight)
    _read_rows_on_cpu(sharded)
    freeze_for_good(sharded, frozen)
    replicate(sharded)
    return sharded


def needs_equal_batches(model: DistributedModelParallel) -> bool:
    """Whether all processes must pass as many rows a batch: ROW_WISE bags fail on gloo without.

    Args:
        model: as `shard` gives it, of its own choice of sharding or the caller's.
    """
    return any(
        placed.sharding_type == "row_wise"
        for module in model.modules()
        if isinstance(module, ShardedEmbeddingBagCollection)
        for placed in module.module_sharding_plan.values()
    )


def _fuse_optimizers(
    model: nn.Module,
    optimizer: TableOptimizer,
    sharding: Sharding | None,
    groups: Sequence[ParameterGroup],
) -> list[nn.Parameter]:
    """Gives the tables that are not frozen for good their optimizer, if that is a fused one."""
    if sharding == "column_wise" and optimizer.name == "rowwise_adagrad":
        raise ValueError(
            "column_wise sharding does not fit rowwise_adagrad: each shard would take the mean of "
            "its own columns, so results would depend on the number of processes; use another "
            "table optimizer, or shard row_wise or table_wise"
        )
    grouped = group_of([name for name, _ in model.named_parameters()], groups)
    for group in groups:
        if group.frozen_steps == FOR_GOOD:
            freeze(model, group.patterns)
    freeze(model, frozen_names(model))  # a table that lost its optimizer when it was copied
    if optimizer.name not in FUSED:
        _require_static(model, optimizer)
    fused = []
    for name, weight in model.named_parameters():
        if table_of(name) is not None and not has_fused_optimizer(weight):
            scale = grouped[name].lr_scale if name in grouped else 1.0
            fuse_table_optimizer(weight, optimizer, scale)
            fused.append(weight)
    return [weight for weight in fused if has_fused_optimizer(weight)]


def _require_static(model: nn.Module, optimizer: TableOptimizer) -> None:
    dynamic = [
        name
        for name, table in dynamic_tables(model).items()
        if not has_fused_optimizer(table.weight)
    ]
    if dynamic:
        raise ValueError(
            f"dynamic tables {dynamic} cannot be trained by {optimizer.name!r}, which moves every "
            f"row in each step: use one of {sorted(FUSED)}"
        )


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
