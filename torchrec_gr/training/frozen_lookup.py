"""Looks up frozen tables of a sharded collection, static ones, without a backward pass.

TorchRec merges tables of one kind into one kernel and trains the kernel as a whole. A kernel whose
tables are all frozen is looked up without gradients here. One with both kinds is looked up twice:
the frozen features without gradients, then the others, each time with empty bags in place of the
other kind, and the two are joined.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.batched_embedding_kernel import (
    BaseBatchedEmbedding,
    BaseBatchedEmbeddingBag,
    BatchedDenseEmbedding,
    BatchedDenseEmbeddingBag,
)
from torchrec.distributed.composable.table_batched_embedding_slice import (
    TableBatchedEmbeddingSlice,
)
from torchrec.distributed.embedding import ShardedEmbeddingCollection
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.types import ShardingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

ShardedCollection: TypeAlias = ShardedEmbeddingCollection | ShardedEmbeddingBagCollection
_Kernel: TypeAlias = BaseBatchedEmbedding[Tensor] | BaseBatchedEmbeddingBag[Tensor]


def frozen_tables(collection: ShardedCollection) -> frozenset[str]:
    """The names of a collection's frozen tables, on whichever process they are."""
    frozen: frozenset[str] = vars(collection).get("_frozen_tables", frozenset())
    return frozen


def set_frozen_tables(collection: ShardedCollection, tables: frozenset[str]) -> None:
    """From now on these tables of a collection are frozen and its others are not.

    All processes must call this together, between two steps.
    """
    collection._frozen_tables = tables
    plan = collection.module_sharding_plan
    for place, kind in enumerate(collection._sharding_types):
        lookup = _unwrapped(collection._lookups[place])
        kernels: list[Any] = list(lookup._emb_modules)
        for kernel in kernels:
            _set_frozen(kernel, tables)
        if kind == ShardingType.DATA_PARALLEL.value:
            collection._lookups[place] = lookup
            if any(_parameter(kernel).requires_grad for kernel in kernels):
                collection.init_data_parallel()
        else:
            alike = {table for table, placed in plan.items() if placed.sharding_type == kind}
            _stand_in(lookup, _Lookup(lookup, alike <= tables) if alike & tables else None)


def _unwrapped(lookup: Any) -> Any:
    return lookup.module if isinstance(lookup, DistributedDataParallel) else lookup


def _set_frozen(kernel: _Kernel, tables: frozenset[str]) -> None:
    """Freezes those tables of a kernel that are among these, and no others."""
    merged = kernel.config.embedding_tables
    frozen = [table.name in tables for table in merged for _ in range(table.num_features())]
    _stand_in(kernel, _KernelLookup(kernel, frozen) if any(frozen) else None)
    if isinstance(kernel, BatchedDenseEmbedding | BatchedDenseEmbeddingBag):
        _parameter(kernel).requires_grad_(not all(frozen))
        for table, part in kernel.named_parameters_by_table():
            part.grad = None
            part.__class__ = _FrozenSlice if table in tables else TableBatchedEmbeddingSlice


def _parameter(kernel: _Kernel) -> Tensor:
    """The one weight of a dense kernel."""
    weight: Tensor = kernel.emb_module.weights
    return weight


def _stand_in(module: nn.Module, forward: Callable[..., Tensor] | None) -> None:
    """Puts something in the place of a module's forward pass; None takes it away."""
    vars(module).pop("forward", None)
    if forward is not None:
        vars(module)["forward"] = forward


class _FrozenSlice(TableBatchedEmbeddingSlice):
    """A frozen table's part of a dense kernel's weight: a dense optimizer leaves it as it is."""

    __slots__ = ()

    @property
    def grad(self) -> None:
        """None, whatever the kernel's other tables have."""
        return None

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        """Nothing: it would change the others'."""


class _KernelLookup:
    """The forward pass of a kernel of which tables are frozen.

    Args:
        kernel: whose.
        frozen: of each feature, whether its table is.
    """

    def __init__(self, kernel: _Kernel, frozen: Sequence[bool]) -> None:
        self._kernel, self._frozen = kernel, list(frozen)

    def __call__(self, features: KeyedJaggedTensor) -> Tensor:
        """What the kernel gives: for bags [B, sum of dims], for sequences [values, dim].

        Raises:
            ValueError: weights of a frozen table's values are to be trained.
        """
        look_up = functools.partial(type(self._kernel).forward, self._kernel)
        if not torch.is_grad_enabled():
            return look_up(features)
        weights = features.weights_or_none()
        if weights is not None and weights.requires_grad:
            raise ValueError(
                f"the weights of {features.keys()} require gradients, which frozen tables do not "
                "give: detach the weights, or do not freeze these features' tables"
            )
        if all(self._frozen):
            with torch.no_grad():
                return look_up(features)
        with torch.no_grad():
            frozen = look_up(_only(features, self._frozen))
        trained = look_up(_only(features, [not is_frozen for is_frozen in self._frozen]))
        if isinstance(self._kernel, BaseBatchedEmbeddingBag):
            return trained.add_(frozen)  # empty bags are zeros
        return _joined(frozen, trained, self._frozen, features.length_per_key())


def _only(features: KeyedJaggedTensor, kept: Sequence[bool]) -> KeyedJaggedTensor:
    """The features, with empty bags for those that are not kept."""
    sizes = features.length_per_key()
    weights = features.weights_or_none()
    lengths = features.lengths().split(features.stride_per_key())
    varies = features.variable_stride_per_key()
    return KeyedJaggedTensor(
        keys=features.keys(),
        values=_of(features.values(), sizes, kept),
        weights=None if weights is None else _of(weights, sizes, kept),
        lengths=torch.cat(
            [
                part if keep else torch.zeros_like(part)
                for part, keep in zip(lengths, kept, strict=True)
            ]
        ),
        stride=None if varies else features.stride(),
        stride_per_key_per_rank=features.stride_per_key_per_rank() if varies else None,
    )


def _of(values: Tensor, sizes: Sequence[int], kept: Sequence[bool]) -> Tensor:
    parts = zip(values.split(list(sizes)), kept, strict=True)
    return torch.cat([values[:0], *(part for part, keep in parts if keep)])


def _joined(
    frozen: Tensor, trained: Tensor, is_frozen: Sequence[bool], sizes: Sequence[int]
) -> Tensor:
    """[values, dim]: the rows of all features' values, those of a feature from where they are."""

    def parts(rows: Tensor, kind: bool) -> Iterator[Tensor]:
        return iter(rows.split([n for n, f in zip(sizes, is_frozen, strict=True) if f == kind]))

    rows = {True: parts(frozen, True), False: parts(trained, False)}
    return torch.cat([next(rows[kind]) for kind in is_frozen])


class _Lookup:
    """The forward pass of all kernels of one sharding type, of which tables are frozen.

    What it gives is sent between processes, and so are its gradients: either all processes must
    take part in the backward pass or none, also those whose own tables are all frozen, or that hold
    none.

    Args:
        lookup: whose.
        all_frozen: whether all tables of the sharding type are frozen, over all processes.
    """

    def __init__(self, lookup: nn.Module, all_frozen: bool) -> None:
        self._lookup, self._all_frozen = lookup, all_frozen

    def __call__(self, features: KeyedJaggedTensor) -> Tensor:
        """What the kernels give together."""
        rows: Tensor = type(self._lookup).forward(self._lookup, features)
        if self._all_frozen:
            return rows.detach()
        if rows.requires_grad or not torch.is_grad_enabled():
            return rows
        return _GradientsUnused.apply(rows, torch.zeros((), requires_grad=True))


class _GradientsUnused(torch.autograd.Function):
    """Takes part in the backward pass and does nothing there."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, _: Tensor) -> Tensor:
        """The rows; the second tensor requires gradients, so they do."""
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        """Nothing to hand on."""
        return None, None
