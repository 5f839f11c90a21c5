"""TorchRec's quantised collections, made empty and filled row by row.

TorchRec's own `from_float` quantises all tables before it copies them, and keeps both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import (
    DATA_TYPE_NUM_BITS,
    BaseEmbeddingConfig,
    DataType,
    EmbeddingBagConfig,
    EmbeddingConfig,
)
from torchrec.modules.embedding_modules import EmbeddingBagCollection as FloatBagCollection
from torchrec.modules.embedding_modules import EmbeddingCollection as FloatCollection
from torchrec.quant.embedding_modules import (
    DEFAULT_ROW_ALIGNMENT,
    EmbeddingBagCollection,
    EmbeddingCollection,
)

Collection: TypeAlias = EmbeddingCollection | EmbeddingBagCollection

_TYPES = {4: DataType.INT4, 8: DataType.INT8}
_SCALE_AND_OFFSET = 4
"""Bytes of the two float16 of a row; they stand before its integers in a table, and after them
where fbgemm's quantisation gives them."""
_ROWS_AT_ONCE = 1 << 16


def quantised_collection(
    tables: Sequence[EmbeddingConfig],
    bits: int,
    device: torch.device,
    *,
    need_indices: bool = False,
) -> EmbeddingCollection:
    """Quantised tables of zeros, for unpooled look-ups."""
    collection = EmbeddingCollection(
        [_quantised(table, bits) for table in tables],
        device=device,
        need_indices=need_indices,
        row_alignment=_row_alignment(device),
    )
    _show_bytes(collection.embeddings)
    return collection


def quantised_bags(
    tables: Sequence[EmbeddingBagConfig],
    bits: int,
    device: torch.device,
    *,
    is_weighted: bool = False,
) -> EmbeddingBagCollection:
    """Quantised tables of zeros, for pooled look-ups."""
    collection = EmbeddingBagCollection(
        [_quantised(table, bits) for table in tables],
        is_weighted=is_weighted,
        device=device,
        row_alignment=_row_alignment(device),
    )
    _show_bytes(collection.embedding_bags)
    return collection


def quantised_copy(collection: FloatCollection | FloatBagCollection, bits: int) -> Collection:
    """A quantised collection of the rows of a float one; on the CPU, of zeros, of a meta one."""
    device = next(collection.parameters()).device
    if device.type == "meta":
        device = torch.device("cpu")
    if isinstance(collection, FloatBagCollection):
        tables, weighted = collection.embedding_bag_configs(), collection.is_weighted()
        quantised = quantised_bags(tables, bits, device, is_weighted=weighted)
    else:
        tables, indices = collection.embedding_configs(), collection.need_indices()
        quantised = quantised_collection(tables, bits, device, need_indices=indices)
    for name, weight in collection.named_parameters():
        if not weight.is_meta:
            store_rows(quantised, name.split(".")[-2], weight.detach(), first=0)
    return quantised


def store_rows(collection: Collection, table: str, rows: Tensor, first: int) -> None:
    """Quantises rows [n, dim] float32 or float16 into a table's rows from `first` on.

    Args:
        collection: of `quantised_collection` or `quantised_bags`.
        table: its name.
        rows: finite, and within float16.
        first: the first row's number in the table.
    """
    if isinstance(collection, EmbeddingBagCollection):
        holders, tables = collection.embedding_bags, collection.embedding_bag_configs()
    else:
        holders, tables = collection.embeddings, collection.embedding_configs()
    bits = DATA_TYPE_NUM_BITS[next(t.data_type for t in tables if t.name == table)]
    stored = holders[table].weight[first : first + len(rows)]
    for into, chunk in zip(stored.split(_ROWS_AT_ONCE), rows.split(_ROWS_AT_ONCE), strict=True):
        packed = torch.ops.fbgemm.FloatOrHalfToFusedNBitRowwiseQuantizedSBHalf(chunk, bits)
        into[:, :_SCALE_AND_OFFSET] = packed[:, -_SCALE_AND_OFFSET:]
        into[:, _SCALE_AND_OFFSET : packed.shape[1]] = packed[:, :-_SCALE_AND_OFFSET]


def require_quantisable(name: str, rows: Tensor, bits: int) -> None:
    """Checks that rows [n, dim] can be stored in so many bits.

    Raises:
        ValueError: a width that does not fit, or values that are not finite or beyond float16.
    """
    multiple = 16 // bits
    if rows.shape[1] % multiple:
        raise ValueError(
            f"{name} has rows of width {rows.shape[1]}: fbgemm packs int{bits} rows into pairs of "
            f"bytes, so the width must be a multiple of {multiple}"
        )
    if rows.is_meta or not rows.numel():
        return
    smallest, largest = (float(bound) for bound in rows.aminmax())
    limit = torch.finfo(torch.float16).max
    if not (-limit <= smallest and largest <= limit):
        raise ValueError(
            f"{name} has values from {smallest} to {largest}: a quantised row's scale and offset "
            f"are float16, so they must be finite and within {limit:.0f}"
        )


def table_bytes(model: nn.Module) -> int:
    """The bytes that the quantised tables inside a model take in memory, alignment included."""
    collections: list[Any] = [
        module
        for module in model.modules()
        if isinstance(module, (EmbeddingCollection, EmbeddingBagCollection))
    ]
    return sum(
        weights.untyped_storage().nbytes()
        for collection in collections
        for kernel in collection._emb_modules
        for weights in (kernel.weights_host, kernel.weights_dev)
    )


def _quantised(table: BaseEmbeddingConfig, bits: int) -> BaseEmbeddingConfig:
    return dataclasses.replace(table, data_type=_TYPES[bits])


def _row_alignment(device: torch.device) -> int:
    """fbgemm's CPU kernels need none, and rows of a recommender are short."""
    return 1 if device.type == "cpu" else DEFAULT_ROW_ALIGNMENT


def _show_bytes(holders: nn.ModuleDict) -> None:
    """Makes the state dict plain bytes.

    TorchRec's int4 tensors count each half byte as an element and cannot be loaded by
    `torch.load` unless it is told to trust the file.
    """
    for holder in holders.values():
        weight: Any = holder.weight
        holder.weight = weight.view(torch.uint8)
