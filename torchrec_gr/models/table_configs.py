"""From a schema's tables to TorchRec's table configurations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from torch import Tensor, nn
from torchrec.modules.embedding_configs import (
    BaseEmbeddingConfig,
    EmbeddingBagConfig,
    EmbeddingConfig,
    PoolingType,
)

from torchrec_gr.schema.feature_schema import ROLES, FeatureSchema, Role
from torchrec_gr.sequences.request_batch import negative_key


def embedding_configs(
    schema: FeatureSchema,
    table_rows: Mapping[str, int],
    dim: int,
    *,
    roles: Iterable[Role] = ROLES,
    negatives: Iterable[str] = (),
    init_std: float | None = None,
) -> list[EmbeddingConfig]:
    """Tables of unpooled embeddings, each serving all of its features.

    Args:
        schema: whose tables and categorical features.
        table_rows: rows of each table, by name.
        dim: embedding width, the same for all.
        roles: only the features of these roles, and only the tables that they use.
        negatives: history features whose table also serves their negatives (`negative_key`).
        init_std: standard deviation of normal initial rows; None: TorchRec's uniform default.

    Returns:
        One configuration a table, in the schema's order.

    Raises:
        ValueError: a table has no row count.
    """
    names = _feature_names(schema, roles)
    for history in negatives:
        names[schema.feature(history).table].append(negative_key(history))
    return [
        EmbeddingConfig(
            name=table,
            embedding_dim=dim,
            num_embeddings=_rows(table_rows, table),
            feature_names=features,
            init_fn=_initializer(init_std),
        )
        for table, features in names.items()
    ]


def embedding_bag_configs(
    schema: FeatureSchema,
    table_rows: Mapping[str, int],
    dim: int,
    pooling: PoolingType = PoolingType.SUM,
    *,
    init_std: float | None = None,
) -> list[EmbeddingBagConfig]:
    """Tables of pooled embeddings: a history feature becomes one bag.

    Args:
        schema: whose tables and categorical features.
        table_rows: rows of each table, by name.
        dim: embedding width, the same for all.
        pooling: of the events of a history; features of one value are not touched by it.
        init_std: standard deviation of normal initial rows; None: TorchRec's uniform default.

    Returns:
        One configuration a table, in the schema's order.

    Raises:
        ValueError: a table has no row count.
    """
    return [
        EmbeddingBagConfig(
            name=table,
            embedding_dim=dim,
            num_embeddings=_rows(table_rows, table),
            feature_names=features,
            pooling=pooling,
            init_fn=_initializer(init_std),
        )
        for table, features in _feature_names(schema, ROLES).items()
    ]


def common_width(tables: Sequence[BaseEmbeddingConfig], num_dense: int, model: str) -> int:
    """The width of an impression-level model's tables, once what it reads is found to be enough.

    Args:
        tables: of the model.
        num_dense: columns of its dense features.
        model: what it is called in errors.

    Raises:
        ValueError: no tables, tables of different widths, or no dense feature.
    """
    widths = {table.embedding_dim for table in tables}
    if len(widths) != 1:
        raise ValueError(
            f"tables: {model} needs at least one table and one width for all, got widths "
            f"{sorted(widths)}"
        )
    if num_dense < 1:
        raise ValueError(f"num_dense: {model} needs at least one dense feature, got {num_dense}")
    return widths.pop()


def _feature_names(schema: FeatureSchema, roles: Iterable[Role]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {table.name: [] for table in schema.tables}
    for role in roles:
        for feature in schema.of(role):
            names[feature.table].append(feature.name)
    return {table: features for table, features in names.items() if features}


def _rows(table_rows: Mapping[str, int], table: str) -> int:
    if table not in table_rows:
        raise ValueError(
            f"table_rows has no row count for table {table!r}: it has {sorted(table_rows)}"
        )
    return table_rows[table]


def _initializer(std: float | None) -> Callable[[Tensor], Tensor] | None:
    return None if std is None else partial(nn.init.normal_, std=std)
