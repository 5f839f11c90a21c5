"""The baseline is TorchRec's own, with the sizes asked for."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec.models.dlrm import DLRM, DLRM_DCN
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.embeddings.dynamic_config import DynamicEmbeddingBagConfig
from torchrec_gr.models.dlrm import DLRMConfig, Interaction, build_dlrm


def _tables(dim: int = 8) -> list[EmbeddingBagConfig]:
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


@pytest.mark.parametrize(("interaction", "kind"), [("dot", DLRM), ("dcn", DLRM_DCN)])
def test_maps_features_to_one_logit_a_task(interaction: Interaction, kind: type) -> None:
    config = DLRMConfig(dense_arch=(16,), over_arch=(32, 8), interaction=interaction)
    model = build_dlrm(_tables(), 3, config, num_tasks=2)
    assert type(model) is kind
    features = KeyedJaggedTensor(
        keys=["country", "history_item", "item"],
        values=torch.tensor([1, 2, 5, 6, 7, 8, 9]),
        lengths=torch.tensor([1, 1, 3, 0, 1, 1]),
    )
    logits = model(torch.randn(2, 3), features)
    assert logits.shape == (2, 2)
    logits.sum().backward()
    widths = [m.out_features for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert {16, 8, 32, 2} <= set(widths)
    tables = [name for name, _ in model.named_parameters() if "embedding_bags" in name]
    prefix = "sparse_arch.embedding_bag_collection.embedding_bags"
    assert tables == [f"{prefix}.item.weight", f"{prefix}.country.weight"]


@pytest.mark.parametrize("interaction", ["dot", "dcn"])
def test_dynamic_tables_read_raw_ids(interaction: Interaction) -> None:
    tables = [
        DynamicEmbeddingBagConfig(
            name="item", embedding_dim=8, feature_names=["item", "history_item"]
        ),
        DynamicEmbeddingBagConfig(name="country", embedding_dim=8, feature_names=["country"]),
    ]
    model = build_dlrm(tables, 3, DLRMConfig(interaction=interaction))
    features = KeyedJaggedTensor(
        keys=["country", "history_item", "item"],
        values=torch.tensor([-1, 2, 2**63 - 1, -(2**63), 7, 7, 9]),
        lengths=torch.tensor([1, 1, 3, 0, 1, 1]),
    )
    bags = model.get_submodule("sparse_arch.embedding_bag_collection")
    apply_optimizer_in_backward(torch.optim.SGD, bags.parameters(), {"lr": 1.0})
    dense = torch.randn(2, 3)
    logits = model(dense, features)
    assert logits.shape == (2, 1)
    logits.sum().backward()
    assert not torch.equal(model(dense, features), logits)
    ids = model.state_dict()["sparse_arch.embedding_bag_collection.embedding_bags.item.ids"]
    assert sorted(ids.tolist()) == [-(2**63), 7, 9, 2**63 - 1]


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(ValueError, match="at least one table"):
        build_dlrm([], 3, DLRMConfig())
    with pytest.raises(ValueError, match=r"one width for all, got widths \[4, 8\]"):
        build_dlrm([_tables(8)[0], _tables(4)[1]], 3, DLRMConfig())
    mixed = [*_tables(), DynamicEmbeddingBagConfig(name="x", embedding_dim=8, feature_names=["x"])]
    with pytest.raises(ValueError, match=r"tables: \['x'\] are dynamic, \['item', 'country'\]"):
        build_dlrm(mixed, 3, DLRMConfig())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one dense feature, got 0"):
        build_dlrm(_tables(), 0, DLRMConfig())
    with pytest.raises(ValueError, match="expected 'dot' or 'dcn', got 'cross'"):
        DLRMConfig(interaction="cross")  # type: ignore[arg-type]
