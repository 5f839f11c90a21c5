"""Runs that end inside of an epoch: where exactly, and the same after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.toy import ToyLoader, ToyLog, sharded, toy_model, whole
from torchrec_gr.training.limit import Limit
from torchrec_gr.training.optimizer import Schedule
from torchrec_gr.training.trainer import Trainer


def _trainer(run_dir: Path | None, limit: Limit | None, **options: Any) -> Trainer:
    model, optimizer = sharded(toy_model("requests"), **options)
    return Trainer(model, optimizer, ToyLoader(ToyLog(), "requests"), run_dir=run_dir, limit=limit)


def _train(trainer: Trainer, epochs: int = 5) -> Trainer:
    while trainer.progress.epoch < epochs and not trainer.exhausted:
        trainer.train_epoch()
    return trainer


def _examples(trainer: Trainer) -> list[int]:
    return [epoch.num_examples for epoch in trainer.finished]


def test_examples_end_a_run_at_the_step_that_reaches_them() -> None:
    whole_run = _train(_trainer(None, None), epochs=1)
    num_steps, of_epoch = whole_run.loader.num_steps, _examples(whole_run)[0]
    limit = 1.5 * of_epoch
    trainer = _train(_trainer(None, Limit(examples=limit)))
    assert [epoch.epoch for epoch in trainer.finished] == [0, 1]
    assert trainer.finished[0].step == num_steps
    assert 0 < trainer.finished[1].step < num_steps
    assert limit <= sum(_examples(trainer)) < limit + 2 * of_epoch / num_steps
    assert trainer.exhausted


def test_seconds_end_a_run() -> None:
    trainer = _train(_trainer(None, Limit(seconds=1e-9)))
    assert [epoch.step for epoch in trainer.finished] == [1]


def test_a_limit_that_is_not_reached_changes_nothing() -> None:
    free, limited = (
        _train(_trainer(None, limit), epochs=2) for limit in (None, Limit(examples=1e9))
    )
    assert not limited.exhausted
    for (name, one), other in zip(
        free.model.state_dict().items(), limited.model.state_dict().values(), strict=True
    ):
        assert torch.equal(whole(one), whole(other)), name


def test_a_run_taken_up_ends_where_one_that_was_not_stopped_ends(tmp_path: Path) -> None:
    of_epoch = _examples(_train(_trainer(None, None), epochs=1))[0]
    limit = Limit(examples=1.5 * of_epoch)
    straight = _train(_trainer(None, limit))
    _train(_trainer(tmp_path, limit), epochs=1)
    resumed = _trainer(tmp_path, limit)
    assert resumed.resume()
    assert _examples(_train(resumed)) == _examples(straight)
    for (name, one), other in zip(
        straight.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(whole(one), whole(other)), name
    again = _trainer(tmp_path, limit)
    assert again.resume()
    assert again.exhausted


def test_the_rate_falls_to_its_floor_where_the_limit_ends_the_run() -> None:
    rates: list[float] = []
    model, optimizer = sharded(toy_model("requests"), schedule=Schedule(0, 1000, floor=0.1))
    loader = ToyLoader(ToyLog(), "requests")
    limit = Limit(examples=0.9 * _examples(_train(_trainer(None, None), epochs=1))[0])
    trainer = Trainer(
        model, optimizer, loader, limit=limit, on_step=lambda step, loss, lr: rates.append(lr)
    )
    _train(trainer)
    assert rates[0] == pytest.approx(0.02)
    assert rates[-1] < 0.25 * rates[0]
    assert rates[-1] == min(rates)


@pytest.mark.parametrize("given", [{}, {"seconds": 0.0}, {"examples": -1.0}])
def test_an_empty_limit_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Limit(**given)
