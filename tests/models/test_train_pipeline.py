"""Every model in TorchRec's pipeline, over two ranks that hold different numbers of units.

Two processes end with the weights of one process that saw both ranks' batches: what a global batch
teaches does not depend on how it is cut.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from tests.models.conftest import RequestMaker
from tests.models.process_cases import Build, train_in_one, train_in_processes
from torchrec_gr.models.din import DINConfig, build_din, history_pairs
from torchrec_gr.models.dlrm import DLRMConfig, build_dlrm
from torchrec_gr.models.gpsd import GPSDConfig, GPSDPretrainer, GPSDRanker
from torchrec_gr.models.table_configs import embedding_bag_configs
from torchrec_gr.models.wukong import WukongConfig, build_wukong
from torchrec_gr.modules.impression_ranker import ImpressionRanker
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.sequences.request_batch import ImpressionBatch, RequestBatch

CONFIG = GPSDConfig(dim=16, num_layers=2, num_heads=2, init_std=0.3)
NAMES = ("pretrainer", "ranker", "dlrm", "din", "wukong")


def _build(name: str, schema: FeatureSchema, table_rows: dict[str, int]) -> nn.Module:
    torch.manual_seed(7)
    if name == "pretrainer":
        return GPSDPretrainer(CONFIG, schema, table_rows)
    if name == "ranker":
        return GPSDRanker(CONFIG, schema, table_rows)
    tables = embedding_bag_configs(schema, table_rows, 8)
    if name == "din":  # Dice would go by each rank's own rows
        config = DINConfig(activation="prelu")
        return ImpressionRanker(build_din(tables, 2, history_pairs(schema), config))
    if name == "wukong":
        return ImpressionRanker(build_wukong(tables, 2, WukongConfig()))
    return ImpressionRanker(build_dlrm(tables, 2, DLRMConfig()))


def _impressions(requests: RequestBatch) -> ImpressionBatch:
    """Each request's own row, with the first candidate alone: good enough to feed DLRM."""
    ids = requests.ids
    keys = [*requests.contextual, *requests.history, *requests.candidates]
    num_rows = requests.num_requests
    return ImpressionBatch(
        dense_features=torch.randn(num_rows, 2, generator=torch.Generator().manual_seed(num_rows)),
        sparse_features=KeyedJaggedTensor(
            keys=keys,
            values=torch.cat([ids[key].values() for key in keys]),
            lengths=torch.cat([ids[key].lengths() for key in keys]),
        ),
        labels=(requests.user_ids % 2).float(),
        weights=(requests.user_ids != 1).float(),
        user_ids=requests.user_ids,
        source_rows=requests.user_ids,
    )


def _batches(make: RequestMaker) -> dict[str, list[list[RequestBatch | ImpressionBatch]]]:
    """Three steps of two ranks each; rank 1 has fewer requests, in the last step an empty one."""
    shapes = [
        [([3, 0, 12], [1, 2, 1]), ([5], [3])],
        [([7, 7, 1], [2, 1, 1]), ([2, 0], [1, 0])],
        [([4, 6], [1, 2]), ([0], [0])],
    ]
    drawn = [
        [make(*shape, seed=10 * step + rank, num_negatives=9) for rank, shape in enumerate(ranks)]
        for step, ranks in enumerate(shapes)
    ]
    impressions = [[_impressions(batch) for batch in of_step] for of_step in drawn]
    return {name: drawn if name in ("pretrainer", "ranker") else impressions for name in NAMES}


def test_two_processes_equal_one(
    schema: FeatureSchema,
    table_rows: dict[str, int],
    make_requests: RequestMaker,
    tmp_path: Path,
) -> None:
    builds: dict[str, Build] = {name: partial(_build, name, schema, table_rows) for name in NAMES}
    batches = _batches(make_requests)
    in_two = train_in_processes(builds, batches, tmp_path)
    for name in NAMES:
        before = builds[name]().state_dict()
        in_one = train_in_one(builds[name](), batches[name])
        _assert_moved_alike(name, before, in_one, in_two[name])


def _assert_moved_alike(
    model: str, before: dict[str, Tensor], ours: dict[str, Tensor], theirs: dict[str, Tensor]
) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(
            theirs[name],
            tensor,
            atol=1e-5,
            rtol=1e-4,
            msg=lambda m, name=name: f"{model}, {name}: {m}",
        )
        assert not torch.equal(tensor, before[name]), f"{model}, {name} did not move"
