"""Wukong reads a batch as DLRM does, and has its layers in between."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.models.wukong import Wukong, WukongConfig, build_wukong

CONFIG = WukongConfig(num_fmb=2, num_lcb=2, rank=3, hidden=(5,), dense_arch=(6,), over_arch=(8, 7))


def _tables(dim: int = 4) -> list[EmbeddingBagConfig]:
    return [
        EmbeddingBagConfig(
            name="item",
            embedding_dim=dim,
            num_embeddings=20,
            feature_names=["item", "history_item"],
        ),
        EmbeddingBagConfig(
            name="country", embedding_dim=dim, num_embeddings=4, feature_names=["country"]
        ),
    ]


def _model(num_tasks: int = 2) -> Wukong:
    torch.manual_seed(0)
    return build_wukong(_tables(), 3, CONFIG, num_tasks=num_tasks)


KEYS = ["country", "history_item", "item"]
ROWS = [([1], [5, 6, 5], [8]), ([2], [], [9]), ([], [], [])]


def _ids(rows: list[tuple[list[int], list[int], list[int]]]) -> KeyedJaggedTensor:
    columns = list(zip(*rows, strict=True))
    return KeyedJaggedTensor(
        keys=KEYS,
        values=torch.tensor(
            [id for column in columns for ids in column for id in ids], dtype=torch.int64
        ),
        lengths=torch.tensor([len(ids) for column in columns for ids in column]),
    )


def _mlp(module: torch.nn.Module, x: Tensor) -> Tensor:
    """TorchRec's, with a ReLU after every layer but where there is none."""
    for part in module.modules():
        if isinstance(part, torch.nn.Linear):
            x = (part.weight @ x + part.bias).clamp(min=0)
    return x


def _expected(model: Wukong, dense: Tensor) -> Tensor:
    tables = dict(model.named_parameters())
    prefix = "sparse_arch.embedding_bag_collection.embedding_bags"
    logits = []
    for numbers, (country, history, item) in zip(dense, ROWS, strict=True):
        embeddings = [_mlp(model.dense_arch, numbers)]
        for table, ids in (("item", item), ("item", history), ("country", country)):
            weight = tables[f"{prefix}.{table}.weight"]
            embeddings.append(sum((weight[i] for i in ids), torch.zeros(4)))
        x = torch.stack(embeddings)[None]
        for layer in model.inter_arch.layers:
            x = layer(x)
        hidden = _mlp(model.over_arch.model[0], x.flatten())
        last = model.over_arch.model[1]
        logits.append(last.weight @ hidden + last.bias)
    return torch.stack(logits)


def test_values_and_gradients_are_those_of_rows_one_by_one() -> None:
    model = _model()
    dense = torch.randn(3, 3)
    result, expected = model(dense, _ids(ROWS)), _expected(model, dense)
    assert result.shape == (3, 2)
    torch.testing.assert_close(result, expected)
    weights = list(model.parameters())
    upstream = torch.randn_like(result)
    torch.testing.assert_close(
        torch.autograd.grad(result, weights, upstream),
        torch.autograd.grad(expected, weights, upstream),
        atol=1e-5,
        rtol=1e-4,
    )


def test_a_row_stands_alone_and_parameters_have_dlrms_names() -> None:
    model = _model(num_tasks=1)
    dense = torch.randn(3, 3)
    alone = [model(dense[i : i + 1], _ids([ROWS[i]])) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), model(dense, _ids(ROWS)))
    tables = [name for name, _ in model.named_parameters() if "embedding_bags" in name]
    prefix = "sparse_arch.embedding_bag_collection.embedding_bags"
    assert tables == [f"{prefix}.item.weight", f"{prefix}.country.weight"]
    assert isinstance(model.get_submodule("over_arch.model.0._mlp.0._linear"), torch.nn.Linear)
    assert len(model.inter_arch.layers) == CONFIG.num_layers


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(ValueError, match="at least one table"):
        build_wukong([], 3, CONFIG)
    with pytest.raises(ValueError, match=r"one width for all, got widths \[4, 8\]"):
        build_wukong([_tables(8)[0], _tables(4)[1]], 3, CONFIG)
    with pytest.raises(ValueError, match="at least one dense feature, got 0"):
        build_wukong(_tables(), 0, CONFIG)
    with pytest.raises(ValueError, match="num_lcb must be at least 1, got 0"):
        WukongConfig(num_lcb=0)
