"""A PinFM module in TorchRec's train pipeline, in one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from tests.pretrained.attaching.attach_cases import KEYS, SHAPES, build, impressions, vocabularies
from tests.pretrained.attaching.pinfm_cases import CONFIG, HASHED, save_pinfm
from torchrec_gr import attach_pretrained
from torchrec_gr.pretrained.tuning.pinfm_tuning import PinFMTuning
from torchrec_gr.training.optimizer import TableOptimizer
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import shard


@pytest.fixture(scope="module", autouse=True)
def device() -> Iterator[torch.device]:
    torch.set_num_threads(1)
    with process_group("cpu") as device:
        yield device


def attached(artefact: Path, **options: Any) -> DistributedModelParallel:
    model: nn.Module = build("train")
    torch.manual_seed(3)
    attach_pretrained(model, artefact, **KEYS, strategy="full", **options)
    sgd = TableOptimizer("sgd", lr=0.1)
    return shard(model, device=torch.device("cpu"), table_optimizer=sgd)


def train(model: DistributedModelParallel, **options: Any) -> list[str]:
    """Three steps; gives the paths of the collections that were pipelined."""
    dense = [w for n, w in model.named_parameters() if "embedding" not in n and w.requires_grad]
    optimizer = torch.optim.SGD(dense, lr=0.1)
    pipeline = TrainPipelineSparseDist(model, optimizer, torch.device("cpu"), **options)
    data = iter([impressions(*SHAPES[shape]) for shape in ("mixed", "filled", "all equal")])
    for _ in range(3):
        pipeline.progress(data)
    pipelined = list(pipeline._pipelined_modules)
    pipeline.detach()
    return sorted(path for path, part in model.module.named_modules() if part in pipelined)


BAGS = "model.sparse_arch.embedding_bag_collection"
STOCK, ITEMS = "model.pretrained.embeddings", "model.pretrained.items.sub_tables"


@pytest.mark.parametrize("hashed", [False, True])
def test_ids_made_inside_forward_are_exchanged_ahead_if_asked_to(
    hashed: bool, tmp_path: Path
) -> None:
    """Replaced candidates, and rows that stand for raw ids: the same training either way."""
    artefact = save_pinfm(tmp_path / "artefact", HASHED if hashed else CONFIG).path
    options: dict[str, Any] = {"tuning": PinFMTuning(replace_candidate=0.5)}
    if hashed:
        options = {"vocabularies": vocabularies()}
    plain = attached(artefact, **options)
    forward, made = ([STOCK], [ITEMS]) if hashed else ([], [STOCK])
    assert train(plain) == [*forward, BAGS]
    ahead = attached(artefact, **options)
    assert train(ahead, pipeline_postproc=True) == [*forward, *made, BAGS]
    if hashed:  # else chance is asked in another order
        for name, entry in ahead.state_dict().items():
            ours, theirs = (
                of.local_shards()[0].tensor if hasattr(of, "local_shards") else of
                for of in (entry, plain.state_dict()[name])
            )
            assert torch.equal(ours, theirs), name


def test_without_either_all_is_pipelined(tmp_path: Path) -> None:
    assert train(attached(save_pinfm(tmp_path / "artefact").path)) == [STOCK, BAGS]
