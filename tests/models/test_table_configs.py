"""Which features each table serves, how wide and long it is."""

from __future__ import annotations

import pytest
import torch
from torchrec.modules.embedding_configs import PoolingType

from torchrec_gr.models.table_configs import embedding_bag_configs, embedding_configs
from torchrec_gr.schema.feature_schema import FeatureSchema


def test_a_table_serves_all_features_that_share_it(
    schema: FeatureSchema, table_rows: dict[str, int]
) -> None:
    configs = embedding_configs(schema, table_rows, 8)
    assert {c.name: c.feature_names for c in configs} == {
        "item": ["history_item", "item"],
        "category": ["history_category", "category"],
        "country": ["country"],
        "shop": ["shop"],
    }
    assert {c.name: c.num_embeddings for c in configs} == table_rows
    assert {c.embedding_dim for c in configs} == {8}


def test_roles_and_negatives(schema: FeatureSchema, table_rows: dict[str, int]) -> None:
    configs = embedding_configs(
        schema, table_rows, 8, roles=("history",), negatives=("history_item",)
    )
    assert {c.name: c.feature_names for c in configs} == {
        "item": ["history_item", "negative_history_item"],
        "category": ["history_category"],
    }


def test_bags_pool_histories(schema: FeatureSchema, table_rows: dict[str, int]) -> None:
    by_default = embedding_bag_configs(schema, table_rows, 4)
    assert {c.pooling for c in by_default} == {PoolingType.SUM}
    assert [c.name for c in by_default] == list(table_rows)
    means = embedding_bag_configs(schema, table_rows, 4, PoolingType.MEAN)
    assert {c.pooling for c in means} == {PoolingType.MEAN}


def test_initial_rows(schema: FeatureSchema, table_rows: dict[str, int]) -> None:
    rows = torch.empty(5000, 4)
    for configs in (embedding_configs, embedding_bag_configs):
        config = configs(schema, table_rows, 4, init_std=0.1)[0]
        config.init_fn(rows)
        assert float(rows.std()) == pytest.approx(0.1, rel=0.05)
    default = embedding_configs(schema, table_rows, 4)[0]
    default.init_fn(rows)
    assert float(rows.abs().max()) == pytest.approx(table_rows["item"] ** -0.5, rel=0.01)


def test_a_missing_row_count_is_named(schema: FeatureSchema, table_rows: dict[str, int]) -> None:
    del table_rows["shop"]
    with pytest.raises(ValueError, match="no row count for table 'shop'"):
        embedding_configs(schema, table_rows, 8)
