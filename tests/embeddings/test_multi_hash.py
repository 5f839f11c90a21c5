"""Multi-hash tables against one row a function, looked up by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.embeddings.multi_hash import (
    MultiHashEmbeddingBagCollection,
    MultiHashEmbeddingCollection,
)
from torchrec_gr.embeddings.multi_hash_config import (
    MultiHashEmbeddingBagConfig,
    MultiHashEmbeddingConfig,
)

ITEM: dict[str, Any] = {
    "name": "item",
    "embedding_dim": 12,
    "num_embeddings": 11,
    "num_hashes": 3,
    "feature_names": ["hist", "cand"],
}
USER: dict[str, Any] = {
    "name": "user",
    "embedding_dim": 8,
    "num_embeddings": 7,
    "num_hashes": 2,
    "feature_names": ["user"],
    "seed": 5,
}
BATCH: dict[str, list[list[int]]] = {
    "user": [[2**63 - 1], [-1], []],
    "unread": [[1], [2, 3], [4]],
    "cand": [[0], [0, 7, 7], []],
    "hist": [[], [-(2**63), 12, -(2**63), 0], [5]],
}


def kjt(batch: dict[str, list[list[int]]], weighted: bool = False) -> KeyedJaggedTensor:
    rows = [row for rows in batch.values() for row in rows]
    values = torch.tensor([value for row in rows for value in row], dtype=torch.int64)
    return KeyedJaggedTensor(
        keys=list(batch),
        values=values,
        lengths=torch.tensor([len(row) for row in rows]),
        weights=torch.linspace(-1, 2, len(values)) if weighted else None,
        stride=len(batch["user"]),
    )


def by_hand(module: nn.Module, config: MultiHashEmbeddingConfig, id: int) -> Tensor:
    """[embedding_dim] of one id."""
    weights = dict(module.named_parameters())
    kind = "embedding_bags" if isinstance(module, MultiHashEmbeddingBagCollection) else "embeddings"
    parts = []
    for function in range(config.num_hashes):
        row = config.hash(torch.tensor([id]), function).item()
        parts.append(weights[f"sub_tables.{kind}.{config.name}_hash{function}.weight"][int(row)])
    return torch.cat(parts)


def sequences() -> tuple[MultiHashEmbeddingCollection, list[MultiHashEmbeddingConfig]]:
    torch.manual_seed(0)
    configs = [MultiHashEmbeddingConfig(**ITEM), MultiHashEmbeddingConfig(**USER)]
    return MultiHashEmbeddingCollection(configs), configs


def bags(
    pooling: PoolingType = PoolingType.SUM, is_weighted: bool = False
) -> tuple[MultiHashEmbeddingBagCollection, list[MultiHashEmbeddingBagConfig]]:
    torch.manual_seed(0)
    wider = {**USER, "embedding_dim": 10}
    configs = [
        MultiHashEmbeddingBagConfig(**ITEM, pooling=pooling),
        MultiHashEmbeddingBagConfig(**wider),
    ]
    return MultiHashEmbeddingBagCollection(configs, is_weighted=is_weighted), configs


def test_values_are_looked_up_one_row_a_function() -> None:
    module, configs = sequences()
    found = module(kjt(BATCH))
    assert list(found) == ["hist", "cand", "user"]
    for config in configs:
        for feature in config.feature_names:
            ids = [id for row in BATCH[feature] for id in row]
            expected = torch.stack([by_hand(module, config, id) for id in ids])
            assert torch.equal(found[feature].values(), expected)
            assert found[feature].lengths().tolist() == [len(row) for row in BATCH[feature]]
    assert torch.equal(found["cand"].values()[0], found["hist"].values()[3])  # one table, id 0


@pytest.mark.parametrize(
    ("pooling", "weighted"),
    [(PoolingType.SUM, False), (PoolingType.SUM, True), (PoolingType.MEAN, False)],
)
def test_bags_are_pooled(pooling: PoolingType, weighted: bool) -> None:
    module, configs = bags(pooling, weighted)
    batch = kjt(BATCH, weighted)
    found = module(batch)
    assert found.keys() == ["hist", "cand", "user"]
    assert found.length_per_key() == [12, 12, 10]
    for config in configs:
        for feature in config.feature_names:
            weights = iter(batch[feature].weights().tolist() if weighted else [])
            for row, ids in enumerate(BATCH[feature]):
                parts = [by_hand(module, config, id) * next(weights, 1.0) for id in ids]
                expected = sum(parts, torch.zeros(config.embedding_dim))
                if config.pooling is PoolingType.MEAN and ids:
                    expected = expected / len(ids)
                torch.testing.assert_close(found[feature][row], expected)


def test_gradients_reach_the_rows_that_were_read() -> None:
    module, (config, _) = sequences()
    module(kjt(BATCH))["cand"].values().sum().backward()
    for function in range(3):
        grad = module.sub_tables.embeddings[f"item_hash{function}"].weight.grad
        expected = torch.zeros(11, 4)
        for id in (0, 0, 7, 7):
            expected[config.hash(torch.tensor([id]), function)] += 1
        assert torch.equal(grad, expected)


def test_batches_without_values_or_rows() -> None:
    module, _ = sequences()
    pooled, _ = bags()
    empty = {feature: [[], []] for feature in BATCH}
    assert module(kjt(empty))["hist"].values().shape == (0, 12)
    assert torch.equal(pooled(kjt(empty)).values(), torch.zeros(2, 34))


def test_one_function_is_a_plain_hashed_table() -> None:
    config = MultiHashEmbeddingConfig(
        name="t", embedding_dim=3, num_embeddings=5, num_hashes=1, feature_names=["user"]
    )
    module = MultiHashEmbeddingCollection([config])
    ids = torch.tensor([2**63 - 1, -1])
    rows = module.sub_tables.embeddings["t_hash0"].weight[config.hash(ids, 0)]
    assert torch.equal(module(kjt(BATCH))["user"].values(), rows)


def test_initial_rows_are_as_configured() -> None:
    config = MultiHashEmbeddingConfig(**ITEM, init_fn=lambda w: nn.init.constant_(w, 2.5))
    module = MultiHashEmbeddingCollection([config])
    assert {weight.unique().item() for weight in module.parameters()} == {2.5}


def test_under_export() -> None:
    module, _ = sequences()
    exported = torch.export.export(module, (kjt(BATCH),), strict=False).module()
    other = {**BATCH, "cand": [[8], [1, 2, 3], []]}
    found, expected = exported(kjt(other)), module(kjt(other))
    for feature in expected:
        assert torch.equal(found[feature].values(), expected[feature].values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hashes": 5}, "multiple of num_hashes 5"),
        ({"num_hashes": 0}, "num_hashes must be at least 1"),
        ({"num_embeddings": 0}, "num_embeddings must be at least 1"),
        ({"feature_names": []}, "feature_names is empty"),
    ],
)
def test_impossible_tables_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiHashEmbeddingConfig(**{**ITEM, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding_dim": 10}, "one width.*'item': 4, 'user': 5"),
        ({"feature_names": ["cand"]}, "one multi-hash table"),
        ({"feature_names": ["user", "user"]}, "named once"),
        ({"name": "item", "num_hashes": 2, "embedding_dim": 8}, "item_hash0"),
    ],
)
def test_tables_that_do_not_go_together_are_refused(change: dict[str, Any], message: str) -> None:
    tables = [MultiHashEmbeddingConfig(**ITEM), MultiHashEmbeddingConfig(**{**USER, **change})]
    with pytest.raises(ValueError, match=message):
        MultiHashEmbeddingCollection(tables)


def test_batches_that_do_not_fit_are_refused() -> None:
    module, _ = sequences()
    with pytest.raises(ValueError, match=r"lacks the features \['cand'\]"):
        module(kjt({key: rows for key, rows in BATCH.items() if key != "cand"}))
    uneven = KeyedJaggedTensor(
        keys=["hist", "cand", "user"],
        values=torch.arange(4),
        lengths=torch.ones(4, dtype=torch.int64),
        stride_per_key_per_rank=[[1], [2], [1]],
    )
    with pytest.raises(ValueError, match="as many rows of every key"):
        module(uneven)
