"""Row-wise int8 and int4 tables for serving, by TorchRec's and fbgemm's quantised look-ups."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
    IntNBitTableBatchedEmbeddingBagsCodegen,
)
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    DenseTableBatchedEmbeddingBagsCodegen,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn
from torchrec.distributed.types import ShardedModule
from torchrec.modules.embedding_modules import (
    EmbeddingBagCollection,
    EmbeddingBagCollectionInterface,
    EmbeddingCollection,
    EmbeddingCollectionInterface,
)

from torchrec_gr.embeddings.dynamic_collections import (
    DynamicEmbeddingBagCollection,
    DynamicEmbeddingCollection,
)
from torchrec_gr.embeddings.quantised_dynamic import (
    QuantisedDynamicEmbeddingBagCollection,
    QuantisedDynamicEmbeddingCollection,
)
from torchrec_gr.embeddings.quantised_tables import (
    quantised_copy,
    require_quantisable,
    table_bytes,
)

_DYNAMIC = (DynamicEmbeddingCollection, DynamicEmbeddingBagCollection)
_QUANTISED_DYNAMIC = (
    QuantisedDynamicEmbeddingCollection,
    QuantisedDynamicEmbeddingBagCollection,
)
_CONVERTIBLE = (EmbeddingCollection, EmbeddingBagCollection, *_DYNAMIC)
_HOLDS_TABLES = (
    EmbeddingCollectionInterface,
    EmbeddingBagCollectionInterface,
    ShardedModule,
    IntNBitTableBatchedEmbeddingBagsCodegen,
    DenseTableBatchedEmbeddingBagsCodegen,
    SplitTableBatchedEmbeddingBagsCodegen,
    *_QUANTISED_DYNAMIC,
)


@dataclasses.dataclass(frozen=True)
class Converted:
    """One collection that was quantised.

    Args:
        path: in the model.
        tables: their names.
        bytes_before, bytes_after: in memory: of the rows, with what alignment adds; of dynamic
            tables with their maps, and before also with counts and optimizer state.
    """

    path: str
    tables: tuple[str, ...]
    bytes_before: int
    bytes_after: int


@dataclasses.dataclass(frozen=True)
class QuantisationReport:
    """What `quantise` did; as a string, a table.

    Args:
        bits: of a number.
        converted: the collections that were quantised.
        left: path and bytes of every plain nn.Embedding and nn.EmbeddingBag, which stay in float.
    """

    bits: int
    converted: tuple[Converted, ...]
    left: tuple[tuple[str, int], ...]

    @property
    def bytes_before(self) -> int:
        """Of all tables that were quantised."""
        return sum(one.bytes_before for one in self.converted)

    @property
    def bytes_after(self) -> int:
        """Of the quantised tables."""
        return sum(one.bytes_after for one in self.converted)

    def __str__(self) -> str:
        lines = [
            f"int{self.bits}: {self.bytes_before:,} bytes before, {self.bytes_after:,} after",
            *(
                f"  {one.path or 'the collection'} ({', '.join(one.tables)}): "
                f"{one.bytes_before:,} before, {one.bytes_after:,} after"
                for one in self.converted
            ),
            *(f"  {path or 'the module'}: left in float, {size:,}" for path, size in self.left),
        ]
        return "\n".join(lines)


def quantise(model: nn.Module, bits: int) -> tuple[nn.Module, QuantisationReport]:
    """Replaces a model's embedding collections by quantised ones, for inference.

    Each row is stored as integers with a float16 scale and offset, from its smallest value to its
    largest; the sub-tables of a multi-hash table each on their own. A dynamic table becomes a map
    that only reads, and its rows: ids that it does not know now read zeros. Look-ups take and give
    what the float collections did, in float32, with a relative error of about 0.005 (int8) and 0.08
    (int4) on normal rows of width 32; only the order of a KeyedTensor's keys may differ where the
    tables of an EmbeddingBagCollection are pooled in several ways. State dicts keep the names of
    static tables; the rows in them are bytes.

    The float rows are freed collection by collection. Where they would not fit at all, make the
    model's collections on the meta device: their quantised tables are zeros on the CPU, for
    `load_state_dict` to fill. Dynamic tables take over any number of rows in loading.

    Args:
        model: not sharded; changed in place. Either holds collections or is one.
        bits: of a number, 8 or 4.

    Returns:
        The model, or what replaces it if it is a collection; and what was done.

    Raises:
        ValueError: no collection; a module of tables that cannot be converted, which is named; a
            width that is no multiple of 2 (int8) or 4 (int4); values that are not finite or beyond
            float16. The model is then as it was.

    Source: PinFM, 2507.12704, its int4 serving; fbgemm's row-wise form.
    """
    if bits not in (4, 8):
        raise ValueError(f"bits must be 4 or 8, got {bits!r}")
    collections = {module: path for path, module in _collections(model, "")}
    if not collections:
        raise ValueError(
            f"{type(model).__name__} holds no embedding collection: there is nothing to quantise"
        )
    for module, path in collections.items():
        for table, rows in _rows(module):
            name = f"table {table!r} of {path!r}" if path else f"table {table!r}"
            require_quantisable(name, rows, bits)
    converted = []
    while collections:
        module, path = collections.popitem()
        names = tuple(dict.fromkeys(table for table, _ in _rows(module)))
        quantised, before = _quantised(module, bits), _num_bytes(module)
        converted.append(Converted(path, names, before, _num_bytes(quantised)))
        model = _replace(model, module, quantised)
        del module
    left = tuple(_plain_embeddings(model))
    return model, QuantisationReport(bits, tuple(reversed(converted)), left)


def _collections(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The collections to be converted, by path."""
    if type(module) in _CONVERTIBLE:
        yield path, module
        return
    if isinstance(module, (*_CONVERTIBLE, *_HOLDS_TABLES)):
        raise ValueError(
            f"{path or 'the model'!r} is a {type(module).__name__}, which cannot be quantised: "
            "expected an unsharded EmbeddingCollection or EmbeddingBagCollection, a multi-hash or "
            "a dynamic one. Of a sharded model, quantise an unsharded one with its weights loaded."
        )
    for name, child in module.named_children():
        yield from _collections(child, f"{path}.{name}" if path else name)


def _rows(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The float rows of each table of a collection, all or some at a time."""
    if isinstance(module, _DYNAMIC):
        for table in module.tables():
            # Its parameter has no rows, and the width.
            yield table.config.name, table.weight.detach()
            yield from ((table.config.name, rows.weight) for rows in table.live_chunks())
    else:
        for name, weight in module.named_parameters():
            yield name.split(".")[-2], weight.detach()


def _quantised(module: nn.Module, bits: int) -> nn.Module:
    """A quantised collection with the rows of this one."""
    if isinstance(module, DynamicEmbeddingBagCollection):
        bags = QuantisedDynamicEmbeddingBagCollection(
            module.embedding_bag_configs(), bits, module.is_weighted()
        )
        bags.take_rows(module.tables())
        return bags
    if isinstance(module, DynamicEmbeddingCollection):
        sequences = QuantisedDynamicEmbeddingCollection(module.embedding_configs(), bits)
        sequences.take_rows(module.tables())
        return sequences
    return quantised_copy(module, bits)


def _num_bytes(module: nn.Module) -> int:
    if isinstance(module, _DYNAMIC):
        return sum(table.report().bytes for table in module.tables())
    if isinstance(module, _QUANTISED_DYNAMIC):
        return module.num_bytes
    return sum(weight.nbytes for weight in module.parameters()) + table_bytes(module)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """The model with `new` wherever it had `old`."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
    return new if model is old else model


def _plain_embeddings(model: nn.Module) -> Iterator[tuple[str, int]]:
    for path, module in model.named_modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            yield path, module.weight.nbytes
