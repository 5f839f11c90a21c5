"""A module attached to what users have: their own DistributedModelParallel, hooks, raw ids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torch.nn.parallel import DistributedDataParallel
from torchrec.datasets.utils import Batch
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim.keyed import KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from tests.pretrained.attaching.attach_cases import (
    DIM,
    KEYS,
    SHAPES,
    Net,
    build,
    impressions,
    loss,
    save_artefact,
    save_dynamic_artefact,
    scores,
)
from tests.training.toy import whole
from torchrec_gr import attach_pretrained, attachment, detach_pretrained
from torchrec_gr.pretrained import Pretrained
from torchrec_gr.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from torchrec_gr.training.optimizer import (
    DenseOptimizer,
    Schedule,
    ScheduledOptimizer,
    TableOptimizer,
    build_optimizer,
)
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import shard

SGD = TableOptimizer("sgd", lr=0.1)


@pytest.fixture(scope="module", autouse=True)
def device() -> Iterator[torch.device]:
    with process_group("cpu") as device:
        yield device


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    return save_artefact(tmp_path_factory.mktemp("attach") / "artefact")


def batches() -> Iterator[Batch]:
    return iter([impressions(*SHAPES[shape]) for shape in ("mixed", "filled", "all equal")])


def train(model: nn.Module) -> list[str]:
    """Three steps in TorchRec's pipeline; gives the types of what was pipelined."""
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(model.named_parameters())),
        lambda weights: torch.optim.SGD(weights, lr=0.1),
    )
    pipeline = TrainPipelineSparseDist(model, dense, torch.device("cpu"))  # type: ignore[arg-type]
    data = batches()
    for _ in range(3):
        pipeline.progress(data)
    names = [type(module).__name__ for module in pipeline._pipelined_modules]
    pipeline.detach()
    return sorted(names)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Of one process, which holds every table whole."""
    return {
        name: (entry.local_shards()[0].tensor if hasattr(entry, "local_shards") else entry).clone()
        for name, entry in model.state_dict().items()
    }


BOTH = ["ShardedEmbeddingBagCollection", "ShardedEmbeddingCollection"]


def test_a_wrapper_by_torchrecs_own_planner(artefact: Pretrained) -> None:
    own = build("train")
    apply_optimizer_in_backward(
        torch.optim.SGD, own.model.sparse_arch.embedding_bag_collection.parameters(), {"lr": 0.1}
    )
    model = DistributedModelParallel(own, device=torch.device("cpu"))
    assert train(model) == BOTH[:1]
    batch = impressions(*SHAPES["mixed"])
    before = scores("train", model, batch)
    attached: Any = attach_pretrained(model, artefact, **KEYS, table_optimizer=SGD)
    assert attached is not model
    assert torch.equal(scores("train", attached, batch), before)
    start = weights(attached)
    assert train(attached) == BOTH
    moved = {name for name, now in weights(attached).items() if not torch.equal(now, start[name])}
    assert moved == {name for name in start if ".pretrained_" not in name}  # which are frozen
    end = weights(attached)
    assert weights(detach_pretrained(attached)).keys() == weights(model).keys()
    for name, entry in weights(model).items():
        assert torch.equal(entry, end[name])


class Asking(Net):
    """Reads the vector by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = nn.Linear(DIM, 1, bias=False)
        self.vector: Tensor | None = None

    def take(self, vector: Tensor) -> None:
        self.vector = vector

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = super().forward(batch) + self.reader(self.vector)
        return logits.square().sum(), logits.detach()


@pytest.mark.parametrize("sharded_first", [False, True])
def test_a_hook_in_a_pipeline(artefact: Pretrained, sharded_first: bool) -> None:
    model: Any = Asking()
    options: dict[str, Any] = {**KEYS, "strategy": "full", "hook": model.take}
    if sharded_first:
        model = shard(model, device=torch.device("cpu"), table_optimizer=SGD)
        model = attach_pretrained(model, artefact, **options, table_optimizer=SGD)
    else:
        model = attach_pretrained(model, artefact, **options)
        model = shard(model, device=torch.device("cpu"), table_optimizer=SGD)
    start = weights(model)
    assert train(model) == BOTH
    stayed = {name for name, now in weights(model).items() if torch.equal(now, start[name])}
    assert stayed == set()


def test_an_attempt_that_fails_leaves_a_sharded_model_as_it_was(artefact: Pretrained) -> None:
    models = [
        shard(build("train"), device=torch.device("cpu"), table_optimizer=SGD) for _ in range(2)
    ]
    plan, inside = list(models[0].plan.plan), models[0]._dmp_wrapped_module
    wrong: list[dict[str, Any]] = [
        {"vocabularies": {"item": [1, 2]}, "table_optimizer": SGD},
        {"strategy": "sparse"},
        {"features": {"item": "past_item"}},
    ]
    for options in wrong:
        with pytest.raises(ValueError, match=r"no id|give table_optimizer=|nothing was said"):
            attach_pretrained(models[0], artefact, **{**KEYS, "strategy": "full", **options})
    assert list(models[0].plan.plan) == plan
    assert models[0]._dmp_wrapped_module is inside
    assert isinstance(inside, DistributedDataParallel)
    for model in models:
        assert train(model) == BOTH[:1]
    for name, entry in weights(models[0]).items():
        assert torch.equal(entry, weights(models[1])[name]), name


def test_other_wrappers_are_refused(artefact: Pretrained) -> None:
    with pytest.raises(ValueError, match="wrapped in DistributedDataParallel"):
        attach_pretrained(DistributedDataParallel(build("dlrm")), artefact, **KEYS)
    attached = DistributedDataParallel(attach_pretrained(build("dlrm"), artefact, **KEYS))
    with pytest.raises(ValueError, match="wrapped in DistributedDataParallel"):
        detach_pretrained(attached)


def test_a_model_in_a_pipeline_is_refused(artefact: Pretrained) -> None:
    model: Any = shard(build("train"), device=torch.device("cpu"), table_optimizer=SGD)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pipeline = TrainPipelineSparseDist(model, optimizer, torch.device("cpu"))
    pipeline.progress(batches())
    with pytest.raises(ValueError, match=r"call pipeline.detach\(\) first"):
        attach_pretrained(model, artefact, **KEYS)
    pipeline.detach()
    model = attach_pretrained(model, artefact, **KEYS)
    pipeline = TrainPipelineSparseDist(model, optimizer, torch.device("cpu"))
    pipeline.progress(batches())
    with pytest.raises(ValueError, match=r"call pipeline.detach\(\) first"):
        detach_pretrained(model)


@pytest.mark.parametrize("when", ["unsharded", "before", "after"])
def test_dynamic_tables_take_raw_ids(when: str, artefact: Pretrained, tmp_path: Path) -> None:
    """As an artefact of the same weights in static tables, whose rows are the ids."""
    dynamic, static = save_dynamic_artefact(tmp_path / "dynamic")
    model: Any = build("train")
    expected = attach_pretrained(build("train"), static, **KEYS, strategy="full")
    options: dict[str, Any] = {**KEYS, "strategy": "full"}
    if when == "after":
        model = shard(model, device=torch.device("cpu"), table_optimizer=SGD)
        model = attach_pretrained(model, dynamic, **options, table_optimizer=SGD)
    else:
        attach_pretrained(model, dynamic, **options)
    if when == "before":
        model = shard(model, device=torch.device("cpu"), table_optimizer=SGD)
    assert attachment(model).tables == ("pretrained_item", "pretrained_category")
    inner = model.module if when != "unsharded" else model
    for part in (inner, expected):
        part.eval()
        nn.init.constant_(part.model.over_arch.model[0]._mlp[0]._linear.widening.weight, 0.1)
    for batch in batches():
        ours, theirs = scores("train", model, batch), scores("train", expected, batch)
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
        assert not torch.equal(theirs, scores("train", build("train").eval(), batch))
    old = build("train", seed=4).state_dict()
    if when == "unsharded":
        model.load_state_dict(old)
        rows = model.state_dict()["model.pretrained.embeddings.embeddings.pretrained_item.ids"]
        assert len(rows) == len(torch.unique(rows)) > 0


def test_static_rows_for_a_dynamic_artefact(tmp_path: Path) -> None:
    dynamic, static = save_dynamic_artefact(tmp_path / "dynamic")
    ids = {"item": list(range(30)), "category": list(range(6))}
    model = attach_pretrained(build("dlrm"), dynamic, **KEYS, vocabularies=ids, strategy="full")
    other = attach_pretrained(build("dlrm"), static, **KEYS, strategy="full")
    kjt = impressions(*SHAPES["mixed"]).sparse_features
    assert torch.equal(model.pretrained(kjt), other.pretrained(kjt))
    with pytest.raises(ValueError, match=r"\['category'\] would be dynamic and \['item'\] not"):
        attach_pretrained(build("dlrm"), dynamic, **KEYS, vocabularies={"item": ids["item"]})


@pytest.mark.parametrize("name", ["dlrm", "train"])
def test_a_checkpoint_from_before_loads(name: str, artefact: Pretrained, tmp_path: Path) -> None:
    def sharded(model: nn.Module) -> tuple[DistributedModelParallel, ScheduledOptimizer]:
        adagrad = TableOptimizer("rowwise_adagrad", lr=0.1)
        model = shard(model, device=torch.device("cpu"), table_optimizer=adagrad)
        return model, build_optimizer(model, adagrad, DenseOptimizer(), Schedule())

    model, optimizer = sharded(build(name))
    for batch in batches():
        optimizer.zero_grad()
        loss(name, model, batch).backward()
        optimizer.step()
    checkpoint = save_checkpoint(tmp_path, 3, model, optimizer, {})

    later, later_optimizer = sharded(attach_pretrained(build(name, seed=5), artefact, **KEYS))
    with pytest.raises(CheckpointError, match=r"lacks .*pretrained\.body\.encoder"):
        load_checkpoint(checkpoint, later, later_optimizer)
    load_checkpoint(checkpoint, later, later_optimizer, added=attachment(later).added)
    batch = impressions(*SHAPES["mixed"])
    assert torch.equal(scores(name, later, batch), scores(name, model, batch))
    states = (one.state_dict()["state"] for one in (optimizer, later_optimizer))
    before, after = states
    for parameter, state in before.items():
        for key, value in state.items():
            assert torch.equal(whole(value), whole(after[parameter][key])), (parameter, key)
