"""What may be frozen. That it holds under every sharding is in test_two_processes.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.types import ShardingType

from tests.training.toy import sharded, toy_model
from torchrec_gr.training.freeze import freeze_tables
from torchrec_gr.training.table_probe import (
    DATA_PARALLEL,
    embeddings_of,
    shard_tiny,
    some_ids,
    tiny_table,
    try_table,
)


def test_what_cannot_be_frozen_is_refused() -> None:
    model = toy_model("requests")
    with pytest.raises(ValueError, match=r"cannot freeze \['itm'\].*\['item', 'user'\]"):
        freeze_tables(model, ["item", "itm"])
    freeze_tables(model, ["item"])
    with pytest.raises(ValueError, match=r"cannot freeze \['item'\].*already"):
        freeze_tables(model, ["item"])


def test_a_frozen_table_has_no_rate_and_no_state() -> None:
    model = toy_model("requests")
    freeze_tables(model, ["item"])
    _, optimizers = sharded(model)
    optimizers.set_step(5)
    name = "embeddings.embeddings.item.weight"
    weight = optimizers.params[name]
    [rate] = [
        group["lr"]
        for group in optimizers.param_groups
        if any(weight is one for one in group["params"])
    ]
    assert rate == 0.0
    assert optimizers.state_dict()["state"][name] == {}


FUSED_TYPES = sorted({kind.value for kind in ShardingType} - {DATA_PARALLEL})


@pytest.mark.parametrize("sharding_type", FUSED_TYPES)
@pytest.mark.parametrize("collection", ["EmbeddingBagCollection", "EmbeddingCollection"])
def test_a_frozen_table_keeps_every_bit_under_every_sharding_type_that_runs(
    collection: str, sharding_type: str, device: torch.device
) -> None:
    ids = some_ids(device)
    try:
        try_table(collection, sharding_type, "RowWiseAdagrad")
    except Exception as error:
        pytest.skip(f"{collection} does not run {sharding_type} here: {error}")
    plain = tiny_table(collection, device)
    freeze_tables(plain, ["table"])
    [before] = [weight.detach().clone() for weight in plain.parameters()]
    sharded = shard_tiny(plain, sharding_type, device)
    for _ in range(3):
        embeddings_of(sharded, ids).sum().backward()
    [after] = read_tables(sharded)
    assert torch.equal(after, before)


def read_tables(sharded: nn.Module) -> list[torch.Tensor]:
    """The whole tables of a model that one process holds."""
    return [
        value.local_shards()[0].tensor if isinstance(value, ShardedTensor) else value.to_local()
        for value in sharded.state_dict().values()
    ]
