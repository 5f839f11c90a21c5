"""Impression-level models that do not know the key of the ages train as if it were not there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import (
    ParameterShardingGenerator,
    construct_module_sharding_plan,
    data_parallel,
    row_wise,
    table_wise,
)
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardingPlan
from torchrec.models.dlrm import DLRMTrain
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.optim.keyed import KeyedOptimizerWrapper

from tests.data.clicks import click_schema, clicks, prepare_clicks
from torchrec_gr.data.loader import RequestLoader
from torchrec_gr.models.dlrm import DLRMConfig, build_dlrm
from torchrec_gr.sequences.request_batch import ITEM_AGE, ImpressionBatch, RequestBatch
from torchrec_gr.training.process_group import process_group

KEYS = ["hour", "item", "tag", "history_item", "history_tag"]


@pytest.fixture(scope="module", autouse=True)
def device() -> Iterator[torch.device]:
    with process_group("cpu") as device:
        yield device


@pytest.fixture
def batches(tmp_path: Path) -> list[ImpressionBatch]:
    """Of a log with item times; the last one has rows of weight 0."""
    rows = clicks()
    log = prepare_clicks(
        tmp_path, rows.assign(made=rows.time - 86_400), click_schema(item_time="made")
    )
    loader = RequestLoader(log, "train", batch_size=20, view="impressions", pad=True)
    found = [batch for batch in loader if isinstance(batch, ImpressionBatch)]
    assert found[0].sparse_features[ITEM_AGE].values().tolist() == [1] * 20
    return found


def without_ages(batch: ImpressionBatch) -> ImpressionBatch:
    ids = batch.sparse_features
    places = [place for place, key in enumerate(ids.keys()) if key != ITEM_AGE]
    return dataclasses.replace(batch, sparse_features=ids.permute(places))


def train(batches: list[ImpressionBatch], sharding: ParameterShardingGenerator) -> dict[str, Any]:
    torch.manual_seed(0)
    tables = [
        EmbeddingBagConfig(name=f"t_{key}", embedding_dim=8, num_embeddings=50, feature_names=[key])
        for key in KEYS
    ]
    model = DLRMTrain(build_dlrm(tables, 3, DLRMConfig(dense_arch=(8,), over_arch=(8,))))
    sharder = EmbeddingBagCollectionSharder()
    bags = model.model.sparse_arch.embedding_bag_collection
    plan = construct_module_sharding_plan(
        bags,
        {table.name: sharding for table in tables},
        sharder=sharder,
        local_size=1,
        world_size=1,
        device_type="cpu",
    )
    sharded = DistributedModelParallel(
        model,
        device=torch.device("cpu"),
        plan=ShardingPlan({"model.sparse_arch.embedding_bag_collection": plan}),
        sharders=[sharder],
    )
    optimizer = KeyedOptimizerWrapper(
        dict(sharded.named_parameters()), lambda weights: torch.optim.SGD(weights, lr=0.1)
    )
    pipeline = TrainPipelineSparseDist(sharded, optimizer, torch.device("cpu"))
    data = iter(batches)
    losses = [pipeline.progress(data)[0] for _ in batches]
    assert len(pipeline._pipelined_modules) == 1
    return {"losses": torch.stack(losses), **_weights(sharded)}


def _weights(model: DistributedModelParallel) -> dict[str, Tensor]:
    return {
        name: entry.local_shards()[0].tensor if hasattr(entry, "local_shards") else entry
        for name, entry in model.state_dict().items()
    }


@pytest.mark.parametrize(
    "sharding", [table_wise(rank=0), row_wise(), data_parallel()], ids=["table", "row", "data"]
)
def test_a_sharded_model_in_the_train_pipeline_does_not_see_the_ages(
    batches: list[ImpressionBatch], sharding: ParameterShardingGenerator
) -> None:
    ours, theirs = train(batches, sharding), train([without_ages(b) for b in batches], sharding)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_requests_are_moved_with_their_ages_and_without(tmp_path: Path) -> None:
    made = clicks().assign(made=0)
    for item_time in (None, "made"):
        log = prepare_clicks(tmp_path, made, click_schema(item_time=item_time))
        batch = next(iter(RequestLoader(log, "train", batch_size=20)))
        assert isinstance(batch, RequestBatch)
        moved = batch.to(torch.device("cpu"))
        assert (moved.item_ages is None) == (item_time is None)
        if batch.item_ages is not None:
            days = batch.candidate_times // 86_400
            assert torch.equal(moved.item_ages, days)
