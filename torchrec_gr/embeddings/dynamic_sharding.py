"""Dynamic collections under DistributedModelParallel: each id's row is on one process."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.dist_data import KJTAllToAll, SequenceEmbeddingsAllToAll
from torchrec.distributed.embedding_sharding import KJTListSplitsAwaitable
from torchrec.distributed.embedding_types import EmbeddingComputeKernel, KJTList
from torchrec.distributed.types import (
    Awaitable,
    LazyAwaitable,
    LazyNoWait,
    ModuleSharder,
    NoWait,
    ShardedModule,
    ShardingEnv,
    ShardingType,
)
from torchrec.optim.fused import EmptyFusedOptimizer, FusedOptimizer, FusedOptimizerModule
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor
from torchrec.streamable import Multistreamable

from torchrec_gr.embeddings.dynamic_collections import (
    DynamicEmbeddingBagCollection,
    DynamicEmbeddingCollection,
)
from torchrec_gr.embeddings.dynamic_lookup import DynamicLookup
from torchrec_gr.embeddings.dynamic_table import DynamicTable
from torchrec_gr.embeddings.feature_ids import FeatureIds
from torchrec_gr.embeddings.id_router import IdRouter
from torchrec_gr.embeddings.row_optimizer import RowOptimizer, applied_optimizer
from torchrec_gr.embeddings.table_group import Reading
from torchrec_gr.ops import pool_rows, route_ids, unique_ids

Collection = DynamicEmbeddingCollection | DynamicEmbeddingBagCollection
Module = TypeVar("Module", bound=Collection)
Output = TypeVar("Output")


@dataclasses.dataclass
class _Step(Multistreamable):
    """What one batch leaves behind on its way to the owners of its ids and back.

    Args:
        batch: what was asked for here.
        order: [n] int64: the places of `batch.ids` in the order in which they were sent.
        num_sent: [processes, tables] int64: ids sent to each.
        num_received: [tables, processes] int64: ids that came from each.
    """

    batch: FeatureIds | None = None
    order: Tensor | None = None
    num_sent: Tensor | None = None
    num_received: Tensor | None = None

    def record_stream(self, stream: torch.Stream) -> None:
        """Ids are mapped on the CPU, where there is nothing to wait for."""


@dataclasses.dataclass(frozen=True)
class _IdsDist:
    """As TorchRec's input distributions hold theirs."""

    _dist: KJTAllToAll


class ShardedDynamicCollection(
    ShardedModule[KJTList, list[Tensor], Output, _Step],
    FusedOptimizerModule,
    Generic[Output],
):
    """A dynamic collection whose rows are spread over processes by a mixed hash of the id.

    A batch's ids are made unique, sent to their owners with their counts, made unique there again,
    looked up once, and their rows go back the same way; gradients are summed once on each of the
    two. Processes may have any number of rows and ids in a step, none too.

    Args:
        module: the collection, with an optimizer applied to its parameters in backward; without
            one, rows can be read and not trained.
        env: the processes.
        device: where the rows go; ids are mapped and rows kept on the CPU.
        deduplicate_requests, deduplicate_owned: as `DynamicEmbeddingSharder` has them.
    """

    def __init__(
        self,
        module: Collection,
        env: ShardingEnv,
        device: torch.device,
        *,
        deduplicate_requests: bool = True,
        deduplicate_owned: bool = True,
    ) -> None:
        super().__init__()
        group = env.process_group
        if group is None:
            raise ValueError("dynamic collections are sharded over a process group: start one")
        self._group: dist.ProcessGroup = group
        self.device = device
        self._deduplicate_requests = deduplicate_requests
        self._deduplicate_owned = deduplicate_owned
        self._router = IdRouter(group)
        self._lookup = DynamicLookup(module.configs(), self._router)
        self._features = module.features_of(self._lookup)
        self.num_exchanged_bytes = 0
        num_tables = len(self._lookup.tables)
        # In lists, so that their buffers are not in the state dict, and under TorchRec's names:
        # its pipelines send the sizes of all modules' ids at once.
        self._input_dists = [_IdsDist(KJTAllToAll(group, [num_tables] * group.size()))]
        self._output_dists = [SequenceEmbeddingsAllToAll(group, [1] * group.size(), device)]
        self._optimizer = _RowsOptimizer(self._take_over(module))

    @property
    def fused_optimizer(self) -> FusedOptimizer:
        """Holds the learning rates; the rows are trained in the backward pass."""
        return self._optimizer

    def create_context(self) -> _Step:
        """For one batch."""
        return _Step()

    def input_dist(self, ctx: _Step, features: KeyedJaggedTensor) -> Awaitable[Awaitable[KJTList]]:
        """Sends the batch's ids and their counts to the processes that hold them."""
        size, num_tables = self._group.size(), len(self._lookup.tables)
        deduplicate = self._deduplicate_requests or size == 1
        batch = self._features.distinct(features, deduplicate=deduplicate)
        ctx.batch = batch
        if size == 1:
            return KJTListSplitsAwaitable([NoWait(NoWait(features))], ctx)
        order, lengths = route_ids(batch.ids, batch.offsets, size)
        ctx.order, ctx.num_sent = order, lengths.view(size, num_tables)
        names = [table.config.name for table in self._lookup.tables]
        ids = KeyedJaggedTensor(
            keys=[f"{name}@{rank}" for rank in range(size) for name in names],
            values=batch.ids[order],
            weights=batch.counts[order].to(torch.float32),
            lengths=lengths.to(torch.int32),
        )
        (ids_dist,) = self._input_dists
        return KJTListSplitsAwaitable([ids_dist._dist(ids.to(self.device))], ctx)

    def compute(self, ctx: _Step, dist_input: KJTList) -> list[Tensor]:
        """Of each group of tables, the rows of the ids that came here, sender by sender."""
        if ctx.order is None:  # there is no other process
            return self._look_up_alone(ctx)
        received = dist_input[0].to(torch.device("cpu"))
        ctx.num_received = received.lengths().view(-1, self._group.size()).to(torch.int64)
        counts = received.weights().to(torch.int64)
        if self._deduplicate_owned:
            return self._look_up(received.values(), counts, ctx.num_received)
        order = torch.arange(len(counts)).split(ctx.num_received.flatten().tolist())
        parts = []
        for sender, num in enumerate(ctx.num_received.T):
            places = torch.cat(order[sender :: self._group.size()])
            ids, times = received.values()[places], counts[places]
            parts.append(self._look_up(ids, times, num.unsqueeze(1)))
        return [torch.cat(rows) for rows in zip(*parts, strict=True)]

    def _look_up_alone(self, ctx: _Step) -> list[Tensor]:
        assert ctx.batch is not None
        ids, offsets, counts = ctx.batch.ids, ctx.batch.offsets, ctx.batch.counts
        readings = self._features.readings(ctx.batch)
        return self._lookup(ids, offsets, counts, readings, training=self.training)

    def _look_up(self, ids: Tensor, counts: Tensor, num_ids: Tensor) -> list[Tensor]:
        """Of each group [ids, dim], sender by sender, for ids that come table by table.

        Args:
            ids: [n] int64, for each table sender by sender.
            counts: [n] int64, how often each is in its sender's batch.
            num_ids: [tables, senders] int64.
        """
        offsets = nn.functional.pad(num_ids.sum(1).cumsum(0), (1, 0))
        ids, offsets, inverse, counts = unique_ids(ids, offsets, counts)
        size = num_ids.shape[1]
        readings, first = [], 0
        for group in self._lookup.groups:
            last = first + len(group.configs)
            by_sender = [t * size + s for s in range(size) for t in range(first, last)]
            _, places, _ = torch.ops.fbgemm.permute_2D_sparse_data(
                torch.tensor(by_sender, dtype=torch.int32), num_ids.view(-1, 1), inverse
            )
            readings.append(Reading(places - offsets[first]))
            first = last
        return self._lookup(ids, offsets, counts, readings, training=self.training)

    def output_dist(self, ctx: _Step, output: list[Tensor]) -> LazyAwaitable[Output]:
        """Sends the rows back and gives them to the batch's features."""
        assert ctx.batch is not None
        if ctx.order is None:
            return LazyNoWait(self.finish(ctx.batch, [rows.to(self.device) for rows in output]))
        assert ctx.num_sent is not None
        assert ctx.num_received is not None
        size = self._group.size()
        waiting, readings, first = [], [], 0
        (send_back,) = self._output_dists
        of_ids = self._features.readings(ctx.batch)
        for group, rows, reading in zip(self._lookup.groups, output, of_ids, strict=True):
            last = first + len(group.configs)
            num_sent = ctx.num_sent[:, first:last].sum(1)
            num_received = ctx.num_received[first:last].sum(0)
            waiting.append(
                send_back(
                    local_embs=rows.to(self.device),
                    lengths=num_received.view(1, size).to(self.device),
                    input_splits=num_sent.tolist(),
                    output_splits=num_received.tolist(),
                )
            )
            begin, end = ctx.batch.offsets[first], ctx.batch.offsets[last]
            sent = ctx.order[(ctx.order >= begin) & (ctx.order < end)] - begin
            place = torch.empty_like(sent)
            place[sent] = torch.arange(len(sent))
            readings.append(reading._replace(places=place[reading.places]))
            is_frozen = all(table.is_frozen for table in self._lookup.tables[first:last])
            trained = self.training and not is_frozen
            self._count_bytes(num_sent, num_received, group.dim, trained=trained)
            first = last
        return _RowsAwaitable(self, ctx.batch, waiting, readings)

    def sharded_parameter_names(self, prefix: str = "") -> Iterator[str]:
        """Of all parameters and buffers: none is replicated."""
        for names in (self.named_parameters(prefix), self.named_buffers(prefix)):
            yield from (name for name, _ in names)

    def finish(self, batch: FeatureIds, rows: Sequence[Tensor]) -> Output:
        """What the unsharded collection gives, from each group's rows, or sums of bags."""
        raise NotImplementedError

    def _count_bytes(
        self, num_sent: Tensor, num_received: Tensor, dim: int, *, trained: bool
    ) -> None:
        """Adds what this process has sent to others: ids with counts, rows, and gradients."""
        rank = self._group.rank()
        ids = int(num_sent.sum() - num_sent[rank])
        rows = int(num_received.sum() - num_received[rank])
        gradients = ids if trained else 0
        self.num_exchanged_bytes += ids * (8 + 4) + (rows + gradients) * dim * 4

    def _take_over(self, module: Collection) -> dict[str, DynamicTable]:
        """Gives the tables their optimizers, seeds and rows; the tables by path in the module."""
        old = {table.config.name: table for table in module.tables()}
        seeds = [int(old[table.config.name].seed) for table in self._lookup.tables]
        dist.broadcast_object_list(seeds, group=self._group, group_src=0)
        for table, seed in zip(self._lookup.tables, seeds, strict=True):
            source = old[table.config.name]
            table.seed.fill_(seed)
            table.weight.requires_grad_(source.weight.requires_grad)
            table.weight._in_backward_optimizers = [EmptyFusedOptimizer()]  # type: ignore[attr-defined]
            applied = applied_optimizer(source.weight)
            if applied is not None:
                lr = {"params": [table.weight], "lr": applied.lr}
                table.use_optimizer(RowOptimizer(applied.name, lr, applied.eps))
        return {f"{module.TABLES}.{table.config.name}": table for table in self._lookup.tables}


class ShardedDynamicEmbeddingCollection(ShardedDynamicCollection[dict[str, JaggedTensor]]):
    """A sharded `DynamicEmbeddingCollection`."""

    def __init__(
        self,
        module: DynamicEmbeddingCollection,
        env: ShardingEnv,
        device: torch.device,
        **deduplicate: bool,
    ) -> None:
        super().__init__(module, env, device, **deduplicate)
        self.embeddings = self._lookup.as_modules()
        self.load_state_dict(module.state_dict())

    def finish(self, batch: FeatureIds, rows: Sequence[Tensor]) -> dict[str, JaggedTensor]:
        """The rows of each feature's values."""
        return self._features.sequences(batch, rows)

    @property
    def unsharded_module_type(self) -> type[DynamicEmbeddingCollection]:
        """What it is sharded from."""
        return DynamicEmbeddingCollection


class ShardedDynamicEmbeddingBagCollection(ShardedDynamicCollection[KeyedTensor]):
    """A sharded `DynamicEmbeddingBagCollection`."""

    def __init__(
        self,
        module: DynamicEmbeddingBagCollection,
        env: ShardingEnv,
        device: torch.device,
        **deduplicate: bool,
    ) -> None:
        super().__init__(module, env, device, **deduplicate)
        self.embedding_bags = self._lookup.as_modules()
        self.load_state_dict(module.state_dict())

    def finish(self, batch: FeatureIds, rows: Sequence[Tensor]) -> KeyedTensor:
        """The pooled rows of each feature's bags."""
        return self._features.bags(batch, rows)

    @property
    def unsharded_module_type(self) -> type[DynamicEmbeddingBagCollection]:
        """What it is sharded from."""
        return DynamicEmbeddingBagCollection


class _Sharder(ModuleSharder[Module]):
    """Spreads every table of a dynamic collection over all processes."""

    def __init__(
        self, *, deduplicate_requests: bool = True, deduplicate_owned: bool = True
    ) -> None:
        super().__init__()
        self._deduplicate = {
            "deduplicate_requests": deduplicate_requests,
            "deduplicate_owned": deduplicate_owned,
        }

    def shardable_parameters(self, module: Module) -> dict[str, nn.Parameter]:
        """For a planner: each table at its budget; without one it counts as a single row."""
        parameters = {}
        for table in module.tables():
            shape = table.config.max_rows or 1, table.config.embedding_dim
            parameters[table.config.name] = nn.Parameter(torch.empty(shape, device="meta"))
            vars(parameters[table.config.name]).update(vars(table.weight))  # its optimizer
        return parameters

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Row-wise."""
        return [ShardingType.ROW_WISE.value]

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """Rows are trained in the backward pass."""
        return [EmbeddingComputeKernel.FUSED.value]


class DynamicEmbeddingSharder(_Sharder[DynamicEmbeddingCollection]):
    """Shards a `DynamicEmbeddingCollection` under DistributedModelParallel.

    Args:
        deduplicate_requests: make ids unique on the process that asks, before they are sent.
        deduplicate_owned: make ids unique over all that ask, on the process that holds the rows;
            otherwise a row is read, and takes an optimizer step, once for each that asked for it.
    """

    def shard(
        self,
        module: DynamicEmbeddingCollection,
        params: Any,
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> ShardedDynamicEmbeddingCollection:
        """The module on this process; the plan's shards are not looked at, ids are hashed."""
        device = device or torch.device("cpu")
        return ShardedDynamicEmbeddingCollection(module, env, device, **self._deduplicate)

    @property
    def module_type(self) -> type[DynamicEmbeddingCollection]:
        """What it shards."""
        return DynamicEmbeddingCollection


class DynamicEmbeddingBagSharder(_Sharder[DynamicEmbeddingBagCollection]):
    """Shards a `DynamicEmbeddingBagCollection` under DistributedModelParallel.

    Args:
        deduplicate_requests: make ids unique on the process that asks, before they are sent.
        deduplicate_owned: make ids unique over all that ask, on the process that holds the rows;
            otherwise a row is read, and takes an optimizer step, once for each that asked for it.
    """

    def shard(
        self,
        module: DynamicEmbeddingBagCollection,
        params: Any,
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> ShardedDynamicEmbeddingBagCollection:
        """The module on this process; the plan's shards are not looked at, ids are hashed."""
        device = device or torch.device("cpu")
        return ShardedDynamicEmbeddingBagCollection(module, env, device, **self._deduplicate)

    @property
    def module_type(self) -> type[DynamicEmbeddingBagCollection]:
        """What it shards."""
        return DynamicEmbeddingBagCollection


class _RowsOptimizer(FusedOptimizer):
    """The learning rates of dynamic tables, by path; their state goes with their rows."""

    def __init__(self, tables: dict[str, DynamicTable]) -> None:
        params = {f"{path}.weight": table.weight for path, table in tables.items()}
        optimizers = [table.optimizer for table in tables.values()]
        super().__init__(params, {}, [o.group for o in optimizers if o is not None])

    def step(self, closure: Any = None) -> None:
        """Nothing: rows are trained in the backward pass."""

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Nothing: no gradient is kept."""


class _RowsAwaitable(LazyAwaitable[Output]):
    """Waits for the rows of all groups."""

    def __init__(
        self,
        module: ShardedDynamicCollection[Output],
        batch: FeatureIds,
        rows: Sequence[Awaitable[Tensor]],
        readings: Sequence[Reading],
    ) -> None:
        super().__init__()
        self._module, self._batch, self._rows, self._readings = module, batch, rows, readings

    def _wait_impl(self) -> Output:
        groups = self._module._lookup.groups
        read = []
        for waiting, group, reading in zip(self._rows, groups, self._readings, strict=True):
            rows = waiting.wait().view(-1, group.dim).cpu()
            assert reading.places is not None
            pooled = pool_rows(rows, reading.places, reading.bags, reading.factors)
            read.append(pooled.to(self._module.device))
        return self._module.finish(self._batch, read)
