"""What a user says of a multi-hash table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from torch import Tensor
from torchrec.modules.embedding_configs import PoolingType

from torchrec_gr.embeddings.id_hash import hash_ids


@dataclasses.dataclass(frozen=True)
class HashSlots:
    """Says what the rows of a sub-table are: the slots of a hash function, which have no ids.

    Rows of two sub-tables belong to the same ids only where all of this is equal.

    Args:
        num_embeddings: rows.
        num_hashes: of the table.
        function: which one this is, from 0.
        seed: of the functions.
    """

    num_embeddings: int
    num_hashes: int
    function: int
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiHashEmbeddingConfig:
    """A table of `num_hashes` sub-tables, each read at the row that its own function hashes to.

    Two ids have the same embedding only where all functions agree on them: see
    `collision_statistics`.

    Args:
        name: of the table; its sub-tables are `<name>_hash0`, `<name>_hash1`, ...
        embedding_dim: width in all, a multiple of `num_hashes`.
        num_embeddings: rows of each sub-table.
        num_hashes: hash functions, and sub-tables.
        feature_names: keys of the KeyedJaggedTensor that it serves; their values are raw ids, any
            int64.
        seed: of the hash functions; a table can be read under its own seed alone.
        init_fn: fills a sub-table's fresh rows, in place; None: TorchRec's uniform default.

    Raises:
        ValueError: a count below 1, no feature, or a width that `num_hashes` does not divide.

    Source: PinFM, 2507.12704: 8 functions, sub-tables of 80M x 32.
    """

    name: str
    embedding_dim: int
    num_embeddings: int
    num_hashes: int
    feature_names: Sequence[str]
    seed: int = 0
    init_fn: Callable[[Tensor], Tensor | None] | None = None

    def __post_init__(self) -> None:
        for field in ("embedding_dim", "num_embeddings", "num_hashes"):
            if getattr(self, field) < 1:
                raise ValueError(
                    f"table {self.name!r}: {field} must be at least 1, got {getattr(self, field)}"
                )
        if self.embedding_dim % self.num_hashes:
            raise ValueError(
                f"table {self.name!r}: embedding_dim {self.embedding_dim} must be a multiple of "
                f"num_hashes {self.num_hashes}: each sub-table gives an equal part of it"
            )
        if not self.feature_names:
            raise ValueError(f"table {self.name!r}: feature_names is empty: name its keys")

    @property
    def sub_dim(self) -> int:
        """The width of each sub-table."""
        return self.embedding_dim // self.num_hashes

    def sub_table(self, function: int) -> str:
        """The name of the sub-table of one hash function."""
        return hashed_name(self.name, function)

    def slots(self, function: int) -> HashSlots:
        """What the rows of the sub-table of one hash function are."""
        return HashSlots(self.num_embeddings, self.num_hashes, function, self.seed)

    def hash(self, ids: Tensor, function: int) -> Tensor:
        """The rows [n] of raw ids [n] int64 in the sub-table of one hash function."""
        return hash_ids(ids, self.num_embeddings, seed=self.seed, function=function)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiHashEmbeddingBagConfig(MultiHashEmbeddingConfig):
    """A multi-hash table whose rows are pooled.

    Args:
        pooling: of the values of a feature's bag; an empty bag gives zeros.
    """

    pooling: PoolingType = PoolingType.SUM


def hashed_name(name: str, function: int) -> str:
    """What a table or a feature is called where one hash function alone is meant."""
    return f"{name}_hash{function}"
