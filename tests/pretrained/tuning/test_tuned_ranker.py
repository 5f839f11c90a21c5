"""A ranker with a PinFM module in it, trained by all of its losses."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim.keyed import KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from tests.pretrained.attaching.attach_cases import KEYS, build, save_artefact
from tests.pretrained.attaching.pinfm_cases import save_pinfm
from tests.pretrained.tuning.tuned_processes import (
    CASES,
    LR,
    attach,
    batch,
    gradients,
    in_two_processes,
    tuned,
)
from torchrec_gr import attach_pretrained, detach_pretrained
from torchrec_gr.modules.impression_ranker import ImpressionRanker
from torchrec_gr.pretrained import Pretrained
from torchrec_gr.pretrained.tuning.tuned_ranker import TunedRanker
from torchrec_gr.training.optimizer import (
    DenseOptimizer,
    Schedule,
    TableOptimizer,
    build_optimizer,
)
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import shard
from torchrec_gr.training.trainer import Trainer

HEAD, INSIDE = CASES["head"], CASES["inside"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    return save_pinfm(tmp_path_factory.mktemp("pinfm") / "artefact")


def test_without_losses_no_bit_changes(artefact: Pretrained) -> None:
    ours, plain = tuned(artefact), ImpressionRanker(attach(artefact))
    assert [name for name, _ in ours.named_parameters()] == [n for n, _ in plain.named_parameters()]
    for step in range(2):
        (loss, output), (expected, reported) = ours(batch(step)), plain(batch(step))
        assert torch.equal(loss, expected)
        assert all(torch.equal(a, b) for a, b in zip(output, reported, strict=True))
        theirs = gradients(plain, expected)
        for name, gradient in gradients(ours, loss).items():
            assert torch.equal(gradient, theirs[name]), name


def test_losses_that_nobody_takes_are_said(artefact: Pretrained) -> None:
    model = attach(artefact, **INSIDE)
    with pytest.warns(UserWarning, match="outside of a TunedRanker"):
        ImpressionRanker(model)(batch(0))


def test_the_loss_is_the_sum_of_its_parts(artefact: Pretrained) -> None:
    ranker: Any = tuned(artefact, **HEAD, **INSIDE)
    kept: list[tuple[Tensor, Tensor]] = []
    tap = ranker.loss._tap
    put = tap.put
    tap.put = lambda *given: (kept.append(given), put(*given))
    given = batch(0)
    loss, output = ranker(given)
    ((vectors, auxiliary),) = kept
    assert vectors.shape == (len(given.labels), ranker.loss.head.in_features)
    own = ranker.loss.head(vectors).squeeze(1)
    logits, labels = output.logits.squeeze(1), given.labels
    real = given.weights > 0
    assert 0 < real.sum() < len(real)
    cross_entropy = binary_cross_entropy_with_logits(own[real], labels[real])
    difference = (own.sigmoid() - logits.sigmoid())[real].square().mean()
    main = output.loss_sum / output.num_units
    torch.testing.assert_close(loss, main + 0.5 * cross_entropy + 2 * difference + auxiliary)
    assert auxiliary > 0
    plain, reported = ImpressionRanker(ranker.model)(given)
    torch.testing.assert_close(main, plain)
    assert torch.equal(output.loss_sum, reported.loss_sum)


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({"ranking_weight": 1.0}, {"encoder.layers", "items"}),
        ({"agreement_weight": 1.0}, {"encoder.layers", "items"}),
        (
            {"next_token_weight": 1.0},
            {"encoder.layers", "encoder.target", "encoder.contrast", "items"},
        ),
        (
            {"alignment_weight": 1.0, "content": {"topic": 4}},
            {"encoder.content", "objective.alignment", "items", "content"},
        ),
    ],
)
def test_what_each_loss_trains(
    options: dict[str, Any], trained: set[str], artefact: Pretrained
) -> None:
    """Of the module alone: the Linear that joins it to the ranker is 0."""
    ranker = tuned(artefact, **options)
    found = gradients(ranker, ranker(batch(0))[0])
    reached = {
        part
        for part, name in {
            "encoder.layers": "pretrained.body.encoder.layers.0.",
            "encoder.target": "pretrained.body.encoder.target.",
            "encoder.contrast": "pretrained.body.encoder.contrast.",
            "encoder.content": "pretrained.body.encoder.content.",
            "objective.alignment": "pretrained.body.objective.alignment.",
            "items": ".pretrained_item.weight",
            "content": ".pretrained_content_topic.weight",
        }.items()
        if any(name in n and gradient.any() for n, gradient in found.items())
    }
    assert reached == trained


def test_evaluation_is_the_rankers_own(artefact: Pretrained) -> None:
    ranker = tuned(artefact, **HEAD, **INSIDE).eval()
    plain = ImpressionRanker(ranker.model).eval()
    (loss, output), (expected, reported) = ranker(batch(0)), plain(batch(0))
    assert torch.equal(loss, expected)
    assert all(torch.equal(a, b) for a, b in zip(output, reported, strict=True))


def test_a_copy_has_a_tap_of_its_own(artefact: Pretrained) -> None:
    ranker = tuned(artefact, **HEAD)
    ranker(batch(0))
    other = copy.deepcopy(ranker)
    assert torch.equal(other(batch(1))[0], ranker(batch(1))[0])


def test_models_that_it_cannot_train(artefact: Pretrained, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="attach one with attach_pretrained"):
        TunedRanker(build("dlrm"))
    gpsd: Any = attach_pretrained(build("dlrm"), save_artefact(tmp_path / "gpsd"), **KEYS)
    with pytest.raises(ValueError, match="is no PinFM module"):
        TunedRanker(gpsd)
    ranker: Any = tuned(artefact, **HEAD)
    detach_pretrained(ranker.model)
    with pytest.raises(RuntimeError, match="gave no vectors in this step"):
        ranker(batch(0))


@pytest.fixture(scope="module")
def device() -> Iterator[torch.device]:
    with process_group("cpu") as device:
        yield device


def sharded(ranker: TunedRanker) -> tuple[DistributedModelParallel, KeyedOptimizerWrapper]:
    tables = TableOptimizer("sgd", lr=LR)
    model = shard(ranker, device=torch.device("cpu"), table_optimizer=tables)
    dense = dict(in_backward_optimizer_filter(model.named_parameters()))
    return model, KeyedOptimizerWrapper(dense, lambda weights: torch.optim.SGD(weights, lr=LR))


def test_both_collections_are_pipelined(artefact: Pretrained, device: torch.device) -> None:
    """And three steps are those of the model outside a pipeline."""
    ranker = tuned(artefact, **HEAD, **INSIDE)
    alone = copy.deepcopy(ranker)
    before = copy.deepcopy(ranker.state_dict())
    model, optimizer = sharded(ranker)
    pipeline = TrainPipelineSparseDist(model, optimizer, device)
    data = iter([batch(step) for step in range(3)])
    descent = torch.optim.SGD(alone.parameters(), lr=LR)
    for step in range(3):
        pipeline.progress(data)
        descent.zero_grad()
        alone(batch(step))[0].backward()
        descent.step()
    names = sorted(type(module).__name__ for module in pipeline._pipelined_modules)
    assert names == ["ShardedEmbeddingBagCollection", "ShardedEmbeddingCollection"]
    for name, entry in model.state_dict().items():
        found = entry.local_shards()[0].tensor if hasattr(entry, "local_shards") else entry
        torch.testing.assert_close(found, alone.state_dict()[name], atol=1e-5, rtol=1e-4)
        assert not torch.equal(found, before[name]), f"{name} did not move"


class Steps:
    """Epochs of the batches, for the trainer."""

    num_steps = 3

    def __init__(self) -> None:
        self.step = 0

    def __iter__(self) -> Iterator[Any]:
        return (batch(step) for step in range(self.step, self.num_steps))

    def seek(self, epoch: int, step: int) -> None:
        self.step = step

    def state_at(self, epoch: int, step: int) -> dict[str, int | str]:
        return {"epoch": epoch, "step": step}

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        self.seek(int(state["epoch"]), int(state["step"]))


def trainer(artefact: Pretrained, run_dir: Path | None, seed: int) -> Trainer:
    random = {"replace_candidate": 0.5, "age_key": "age", "max_pairs": 1, "num_negatives": 2}
    tables = TableOptimizer("sgd", lr=LR)
    ranker = tuned(artefact, **HEAD, **INSIDE, **random)
    model = shard(ranker, device=torch.device("cpu"), table_optimizer=tables)
    optimizer = build_optimizer(model, tables, DenseOptimizer(), Schedule())
    torch.manual_seed(seed)
    return Trainer(model, optimizer, Steps(), run_dir=run_dir, checkpoint_steps=1)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {
        name: (entry.local_shards()[0].tensor if hasattr(entry, "local_shards") else entry).clone()
        for name, entry in trainer.model.state_dict().items()
    }


class Killed(Exception):
    """Stands for the end of a process."""


def test_a_resumed_run_draws_what_it_would_have_drawn(
    artefact: Pretrained, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of dropout, replaced candidates, pairs and negatives."""
    straight = trainer(artefact, None, seed=5)
    straight.train_epoch()
    other = trainer(artefact, None, seed=6)
    other.train_epoch()
    killed = trainer(artefact, tmp_path, seed=5)
    train_step = killed._train_step

    def train_or_die(*args: Any) -> None:
        if killed.global_step == 2:
            raise Killed
        train_step(*args)

    monkeypatch.setattr(killed, "_train_step", train_or_die)
    with pytest.raises(Killed):
        killed.train_epoch()
    resumed = trainer(artefact, tmp_path, seed=6)
    assert resumed.resume()
    resumed.train_epoch()
    ended, of_other = weights(straight), weights(other)
    for name, weight in weights(resumed).items():
        assert torch.equal(weight, ended[name]), name
    assert not all(torch.equal(weight, of_other[name]) for name, weight in ended.items())


@pytest.fixture(scope="module")
def by_two(
    artefact: Pretrained, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Tensor]]:
    return in_two_processes(artefact.path, tmp_path_factory.mktemp("processes"))


def joint_head(ranker: TunedRanker, options: dict[str, Any]) -> Tensor:
    """The losses on both processes' batches as one: a sum over rows over their number."""
    losses, num_units = [], torch.zeros(())
    for step in (0, 2):
        loss, output = ranker(batch(step))
        losses.append(loss * output.num_units)
        num_units = num_units + output.num_units
    return sum(losses, start=torch.zeros(())) / num_units


def joint_inside(ranker: Any, options: dict[str, Any]) -> Tensor:
    """Each process's negatives are its own; the means are over the pairs of both."""
    body = ranker.model.pretrained.body
    sums: dict[str, list[Tensor]] = {"next": [], "alignment": []}
    counts = {"next": 0, "alignment": 0}
    mean = body.objective._mean
    names: Iterator[str] = iter(["next", "alignment"] * 2)

    def keep(losses: Tensor) -> Tensor:
        name = next(names)
        sums[name].append(losses.sum())
        counts[name] += len(losses)
        return losses.sum() * 0

    body.objective._mean = keep
    total = joint_head(ranker, options)
    body.objective._mean = mean
    assert len(sums["next"]) == 2
    for name, weight in (("next", "next_token_weight"), ("alignment", "alignment_weight")):
        total = total + options[weight] * torch.stack(sums[name]).sum() / counts[name]
    return total


@pytest.mark.parametrize(("case", "joint"), [("head", joint_head), ("inside", joint_inside)])
def test_two_processes_with_uneven_batches_give_the_joint_gradient(
    case: str, joint: Any, by_two: dict[str, dict[str, Tensor]], artefact: Pretrained
) -> None:
    ranker = tuned(artefact, **CASES[case])
    expected = gradients(ranker, joint(ranker, CASES[case]))
    assert by_two[case].keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(by_two[case][name], gradient, atol=1e-6, rtol=1e-4, msg=name)
    assert sum(bool(gradient.any()) for gradient in expected.values()) > 20
