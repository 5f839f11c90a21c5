"""The loop: resumed runs, evaluation, and what stops it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.training.dynamic_toy import dynamic_trainer
from tests.training.toy import ToyLoader, ToyLog, sharded, toy_model, whole
from torchrec_gr.embeddings.dynamic_table import dynamic_tables
from torchrec_gr.training.checkpoint import latest_checkpoint, read_weights
from torchrec_gr.training.parameter_groups import ParameterGroup
from torchrec_gr.training.trainer import NonFiniteError, Trainer

EPOCHS = 2


class Killed(Exception):
    """Stands for the end of a process."""


THAWED = ParameterGroup(("item", "body.hidden.*"), lr_scale=0.1, frozen_steps=7)


def _trainer(
    run_dir: Path | None,
    optimizer: str = "rowwise_adagrad",
    view: str = "requests",
    groups: Sequence[ParameterGroup] = (),
    **options: Any,
) -> Trainer:
    dropout = {"dropout": 0.3} if view == "requests" else {}
    model, optimizers = sharded(toy_model(view, **dropout), optimizer=optimizer, groups=groups)
    return Trainer(model, optimizers, ToyLoader(ToyLog(), view), run_dir=run_dir, **options)


def _finish(trainer: Trainer) -> dict[str, Any]:
    while trainer.progress.epoch < EPOCHS:
        trainer.train_epoch()
    predictions = trainer.evaluate(ToyLoader(ToyLog(seed=1), trainer.loader.view, seed=None))
    return {
        "losses": [epoch.mean_loss for epoch in trainer.finished],
        "logits": predictions.logits,
        "loss": predictions.loss,
        "weights": {n: whole(w).clone() for n, w in trainer.model.state_dict().items()},
    }


def _assert_same(run: dict[str, Any], other: dict[str, Any]) -> None:
    assert run["losses"] == other["losses"]
    assert run["loss"] == other["loss"]
    assert (run["logits"] == other["logits"]).all()
    assert run["weights"].keys() == other["weights"].keys()
    for name, weight in run["weights"].items():
        assert torch.equal(weight, other["weights"][name]), name


@pytest.mark.parametrize("groups", [(), (THAWED,)], ids=["plain", "thawed"])
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adamw"])
def test_a_run_killed_at_any_step_ends_with_the_numbers_of_one_that_was_not(
    tmp_path: Path,
    optimizer: str,
    groups: Sequence[ParameterGroup],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole_run = _trainer(None, optimizer, groups=groups)
    torch.manual_seed(7)  # of dropout
    expected = _finish(whole_run)
    for kill_at in range(1, EPOCHS * whole_run.loader.num_steps):
        run_dir = tmp_path / f"killed_{kill_at}"
        killed = _trainer(run_dir, optimizer, groups=groups, checkpoint_steps=4)
        torch.manual_seed(7)
        _kill_at(kill_at, killed, monkeypatch)
        with pytest.raises(Killed):
            _finish(killed)
        again = _trainer(run_dir, optimizer, groups=groups, checkpoint_steps=4)
        torch.manual_seed(7)
        assert again.resume() == (kill_at >= 4)
        assert 0 <= kill_at - again.global_step < 4
        _assert_same(_finish(again), expected)


def _kill_at(step: int, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    train_step = trainer._train_step

    def train_or_die(*args: Any) -> None:
        if trainer.global_step == step:
            raise Killed
        train_step(*args)

    monkeypatch.setattr(trainer, "_train_step", train_or_die)


def test_resume_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    assert not _trainer(None).resume()
    assert not _trainer(tmp_path / "new").resume()


def test_resume_refuses_a_loader_of_other_settings(tmp_path: Path) -> None:
    _trainer(tmp_path).train_epoch()
    other = _trainer(tmp_path)
    other.loader.batch_size = 9
    with pytest.raises(ValueError, match="batch_size"):
        other.resume()


@pytest.mark.parametrize("view", ["requests", "impressions"])
def test_evaluation_between_steps_changes_nothing(
    view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = _trainer(None, view=view)
    torch.manual_seed(7)
    expected = _finish(plain)
    evaluated = _trainer(None, view=view)
    train_step = evaluated._train_step

    def train_and_look(*args: Any) -> None:
        train_step(*args)
        evaluated.evaluate(ToyLoader(ToyLog(seed=1), view, seed=None))
        assert evaluated.model.training

    monkeypatch.setattr(evaluated, "_train_step", train_and_look)
    torch.manual_seed(7)
    _assert_same(_finish(evaluated), expected)


def test_the_mean_loss_is_that_of_the_epochs_own_steps() -> None:
    trainer = _trainer(None, view="impressions")
    losses = []
    forward = trainer._pipeline._model_fwd

    def watch(batch: Any) -> Any:
        loss, output = forward(batch)
        losses.append((float(output.loss_sum), len(batch.labels)))
        return loss, output

    trainer._pipeline._model_fwd = watch
    epoch = trainer.train_epoch()
    assert len(losses) == epoch.step == trainer.loader.num_steps
    total = sum(count for _, count in losses)
    assert epoch.num_examples == total == sum(map(len, ToyLog().candidates))
    assert epoch.mean_loss == pytest.approx(sum(loss for loss, _ in losses) / total)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_parameter(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, checkpoint_steps=2)
    trainer.train_epoch()
    good = {name: whole(w).clone() for name, w in trainer.model.state_dict().items()}
    with torch.no_grad():
        trainer.model.state_dict()["body.head.weight"].fill_(float("nan"))
    with pytest.raises(NonFiniteError) as error:
        trainer.train_epoch()
    assert "loss of step 6 (epoch 1, step 0) is nan" in str(error.value)
    assert "first parameter that is not finite is body.head.weight" in str(error.value)
    assert f"good checkpoint is {tmp_path / 'step_6'}" in str(error.value)
    kept = read_weights(tmp_path)
    assert all(torch.equal(kept[name], weight) for name, weight in good.items())


def test_a_batch_that_makes_the_loss_infinite_is_named_and_trains_nothing() -> None:
    trainer = _trainer(None, view="impressions")
    trainer.loader.seed = None
    forward = trainer.loader._batch
    made = []

    def damage(units: list[int]) -> Any:
        made.append(forward(units))
        if len(made) == 3:
            made[-1].dense_features[0, 0] = float("nan")
        return made[-1]

    trainer.loader._batch = damage
    with pytest.raises(NonFiniteError, match="All parameters are finite") as error:
        trainer.train_epoch()
    rows = made[2].source_rows
    assert f"step 2 (epoch 0, step 2) is nan. Its batch read rows of the log {rows.min()}.." in str(
        error.value
    )
    assert f"..{rows.max()}." in str(error.value)
    assert trainer.global_step == 2


def test_a_parameter_that_backward_damaged_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = _trainer(tmp_path)
    train_step = trainer._train_step

    def damage(*args: Any) -> None:
        train_step(*args)
        if trainer.progress.step == trainer.loader.num_steps:
            shard = trainer.model.state_dict()["embeddings.embeddings.user.weight"]
            shard.local_shards()[0].tensor[1, 1] = float("inf")

    monkeypatch.setattr(trainer, "_train_step", damage)
    with pytest.raises(NonFiniteError, match=r"finite is embeddings\.embeddings\.user\.weight"):
        trainer.train_epoch()
    assert latest_checkpoint(tmp_path) is None


def test_a_dynamic_tables_row_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    trainer = dynamic_trainer(tmp_path)
    trainer.train_epoch()
    table = dynamic_tables(trainer.model)["embeddings.embeddings.item"]
    rows = table.rows()
    rows.weight[3, 2] = float("nan")
    table.load_rows(rows)
    with pytest.raises(NonFiniteError, match=r"finite is embeddings\.embeddings\.item\.weight"):
        trainer._save()
    assert latest_checkpoint(tmp_path) == tmp_path / "step_6"


def test_settings_below_one_are_refused() -> None:
    for name in ("checkpoint_steps", "full_checkpoint_every"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            _trainer(None, **{name: 0})


def test_scalars_are_written_for_tensorboard(tmp_path: Path) -> None:
    _trainer(tmp_path).train_epoch()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "lr/tables", "lr/dense", "examples_per_second"}
    assert [event.step for event in events.Scalars("loss")] == list(range(6))


def test_the_progress_bar_is_silent_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    _trainer(None).train_epoch()
    assert capfd.readouterr().err == ""


def test_bf16_trains_close_to_float32() -> None:
    exact = _trainer(None, view="impressions").train_epoch().mean_loss
    rounded = _trainer(None, view="impressions", bf16=True).train_epoch().mean_loss
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.02)
