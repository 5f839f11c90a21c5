"""What a user says of a dynamic table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

from torchrec.modules.embedding_configs import PoolingType

Eviction = Literal["lru", "lfu", "age"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicEmbeddingConfig:
    """A table whose rows come with the ids that are seen, and go when the budget is spent.

    Args:
        name: of the table, unique in its collection.
        embedding_dim: width of its rows, float32.
        feature_names: keys of the KeyedJaggedTensor that it serves; their values are raw ids, any
            int64.
        max_rows: the budget: most rows over all processes, each of which holds an equal share;
            None sets none. `DynamicTable.report` says what they cost in bytes.
        admit_after: an id gets a row with the batch in which it is seen for the `admit_after`-th
            time. Until then it reads zeros, and is remembered as waiting, which costs about 30
            bytes; as many ids may wait as there may be rows.
        eviction: whose rows go where the budget has none left, and with those needed a sixteenth
            of it: "lru", the ids seen longest ago; "lfu", those seen least often; "age", all those
            not seen for `max_age` steps, which go before the table grows as well, and then as
            "lru". Ties fall by the other of count and last step, then by id. Ids of the batch in
            progress stay.
        max_age: of "age": in steps, that is in training batches of the collection.
        init_std: standard deviation of fresh rows, which are normal around 0. The values follow
            from the id and from torch's seed when the collection was made, whatever came before.
    """

    name: str
    embedding_dim: int
    feature_names: Sequence[str]
    max_rows: int | None = None
    admit_after: int = 1
    eviction: Eviction = "lru"
    max_age: int | None = None
    init_std: float = 0.01

    def __post_init__(self) -> None:
        for field in ("embedding_dim", "max_rows", "admit_after", "max_age"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"table {self.name!r}: {field} must be at least 1, got {value}")
        if not self.feature_names:
            raise ValueError(f"table {self.name!r}: feature_names is empty: name its keys")
        if self.eviction not in get_args(Eviction):
            raise ValueError(
                f"table {self.name!r}: unknown eviction {self.eviction!r}: expected one of "
                f"{', '.join(get_args(Eviction))}"
            )
        if (self.eviction == "age") != (self.max_age is not None):
            raise ValueError(
                f"table {self.name!r}: max_age belongs to eviction='age', which needs it; got "
                f"eviction={self.eviction!r}, max_age={self.max_age}"
            )
        if not self.init_std >= 0:
            raise ValueError(
                f"table {self.name!r}: init_std must not be negative, got {self.init_std}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicEmbeddingBagConfig(DynamicEmbeddingConfig):
    """A dynamic table whose rows are pooled.

    Args:
        pooling: of the values of a feature's bag; an empty bag gives zeros.
    """

    pooling: PoolingType = PoolingType.SUM
