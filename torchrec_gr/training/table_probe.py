"""Trains one tiny table for one step, to find out whether this machine can train such a table."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed._shard.sharding_spec import EnumerableShardingSpec, ShardMetadata
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import placement
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ParameterSharding, ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from torchrec_gr.training.process_group import process_group

_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "SGD": torch.optim.SGD,
    "Adagrad": torch.optim.Adagrad,
    "RowWiseAdagrad": RowWiseAdagrad,
    "Adam": torch.optim.Adam,
}
_LR = 0.1

DATA_PARALLEL = "data_parallel"
"""The one sharding type without a fused optimizer."""


def try_table(collection: str, sharding_type: str, optimizer: str) -> str:
    """Shards a tiny table in a process group of one and trains it for a step.

    Args:
        collection: "EmbeddingBagCollection" or "EmbeddingCollection".
        sharding_type: a value of TorchRec's ShardingType.
        optimizer: "SGD", "Adagrad", "RowWiseAdagrad" or "Adam", fused into the backward pass;
            data_parallel has no fused form: it takes a plain step whatever this says.

    Returns:
        The type of the device that it ran on.

    Raises:
        RuntimeError: the table gives other embeddings than an unsharded one, or does not learn.
        Exception: what TorchRec and fbgemm raise for a table that they do not support.
    """
    with process_group() as device:
        plain = tiny_table(collection, device)
        ids = some_ids(device)
        expected = embeddings_of(plain, ids).detach()
        if sharding_type != DATA_PARALLEL:
            fused = _OPTIMIZERS[optimizer]
            apply_optimizer_in_backward(fused, list(plain.parameters()), {"lr": _LR})
        sharded = shard_tiny(plain, sharding_type, device)
        embeddings = embeddings_of(sharded, ids)
        if embeddings.shape != expected.shape or not torch.allclose(embeddings, expected):
            raise RuntimeError("the sharded table gives other embeddings than the plain one")
        embeddings.sum().backward()
        _step_unfused(sharded)
        if torch.equal(embeddings_of(sharded, ids), expected):
            raise RuntimeError("a training step leaves the table as it was")
        return device.type


def tiny_table(collection: str, device: torch.device) -> nn.Module:
    """A collection of one table of 8 rows, called "table", for one feature."""
    if collection == "EmbeddingBagCollection":
        bag = EmbeddingBagConfig(
            name="table", num_embeddings=8, embedding_dim=4, feature_names=["feature"]
        )
        return EmbeddingBagCollection(tables=[bag], device=device)
    table = EmbeddingConfig(
        name="table", num_embeddings=8, embedding_dim=4, feature_names=["feature"]
    )
    return EmbeddingCollection(tables=[table], device=device)


def some_ids(device: torch.device) -> KeyedJaggedTensor:
    """Ids of the tiny table's feature, a row without any among them."""
    return KeyedJaggedTensor.from_lengths_sync(
        ["feature"], torch.tensor([1, 2, 0, 3]), torch.tensor([2, 0, 1, 1])
    ).to(device)


def shard_tiny(
    plain: nn.Module, sharding_type: str, device: torch.device
) -> DistributedModelParallel:
    """Shards a collection of one table, whose optimizer is fused already, in a group of one."""
    weights = {name: weight.clone() for name, weight in plain.state_dict().items()}
    (weight,) = plain.parameters()
    fused = sharding_type != DATA_PARALLEL
    # In one process every sharding type has the same one shard: the whole table.
    shard = ShardMetadata([0, 0], list(weight.shape), placement(device.type, 0, 1))
    sharding = ParameterSharding(
        sharding_type=sharding_type,
        compute_kernel="fused" if fused else "dense",
        ranks=[0],
        sharding_spec=EnumerableShardingSpec([shard]) if fused else None,
    )
    sharded = DistributedModelParallel(
        plain,
        device=device,
        plan=ShardingPlan({"": EmbeddingModuleShardingPlan({"table": sharding})}),
        sharders=[EmbeddingBagCollectionSharder(), EmbeddingCollectionSharder()],
    )
    sharded.load_state_dict(weights)  # on CPU, an EmbeddingBagCollection's are not copied
    return sharded


def embeddings_of(collection: nn.Module, ids: KeyedJaggedTensor) -> Tensor:
    """What a collection gives for its feature: [values or rows, 4]."""
    found = collection(ids)["feature"]
    return found.values() if isinstance(found, JaggedTensor) else found


def _step_unfused(module: nn.Module) -> None:
    """Moves the parameters that the backward pass has not moved already."""
    with torch.no_grad():
        for weight in module.parameters():
            if weight.grad is not None:
                weight.sub_(weight.grad, alpha=_LR)
