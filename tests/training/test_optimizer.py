"""The optimizers against plain PyTorch, and the schedule."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from tests.training.toy import ToyLog, sharded, toy_model, whole
from torchrec_gr.training.optimizer import (
    DenseOptimizer,
    Schedule,
    TableOptimizer,
    build_optimizer,
)
from torchrec_gr.training.tables import table_of


def _batches(view: str, num: int = 5) -> list[Any]:
    log = ToyLog()
    parts = [range(7 * i, 7 * i + 7) for i in range(num)]
    if view == "requests":
        return [log.requests(part) for part in parts]
    return [log.impressions(part, sum(len(log.candidates[i]) for i in part)) for part in parts]


@pytest.mark.parametrize("view", ["requests", "impressions"])
@pytest.mark.parametrize(
    ("sharding", "optimizer"),
    [
        ("table_wise", "adamw"),
        ("row_wise", "adamw"),
        ("column_wise", "adamw"),
        ("column_wise", "adagrad"),
        ("row_wise", "sgd"),
    ],
)
def test_a_sharded_model_trains_as_plain_pytorch_does(
    view: str, sharding: Any, optimizer: str
) -> None:
    schedule = Schedule(warmup_steps=2, total_steps=5, floor=0.3)
    model, optimizers = sharded(toy_model(view), sharding, optimizer, schedule)
    plain = toy_model(view)
    tables = [w for name, w in plain.named_parameters() if table_of(name)]
    dense = [w for name, w in plain.named_parameters() if not table_of(name)]
    table_optimizers: dict[str, Any] = {
        "adagrad": partial(torch.optim.Adagrad, eps=1e-8),
        "sgd": torch.optim.SGD,
        "adamw": partial(torch.optim.AdamW, betas=(0.9, 0.98), weight_decay=0.01),
    }
    plain_optimizers = [
        table_optimizers[optimizer](tables, lr=0.1),
        torch.optim.AdamW(dense, lr=0.02, betas=(0.9, 0.98), weight_decay=0.1),
    ]
    for step, batch in enumerate(_batches(view)):
        optimizers.set_step(step)
        optimizers.zero_grad()
        model(batch)[0].backward()
        optimizers.step()
        for one, peak in zip(plain_optimizers, (0.1, 0.02), strict=True):
            one.param_groups[0]["lr"] = peak * schedule.factor(step)
            one.zero_grad()
        plain(batch)[0].backward()
        torch.nn.utils.clip_grad_norm_(dense, 1.0)
        for one in plain_optimizers:
            one.step()
    after = plain.state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(whole(value), after[name], rtol=1e-4, atol=1e-5)


def test_the_schedule_warms_up_and_falls_to_its_floor() -> None:
    schedule = Schedule(warmup_steps=4, total_steps=11, floor=0.1)
    factors = [schedule.factor(step) for step in range(13)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[7] == pytest.approx(0.55)
    assert factors[10:] == pytest.approx([0.1] * 3)
    assert sorted(factors[4:], reverse=True) == factors[4:]
    assert [Schedule(warmup_steps=2).factor(step) for step in (0, 1, 99)] == [0.5, 1.0, 1.0]


def test_every_group_follows_the_schedule_from_its_own_peak() -> None:
    _, optimizers = sharded(toy_model("requests"), schedule=Schedule(warmup_steps=4))
    for step, factor in ((0, 0.25), (3, 1.0), (1, 0.5)):
        optimizers.set_step(step)
        assert optimizers.learning_rates() == pytest.approx(
            {"tables": 0.1 * factor, "dense": 0.02 * factor}
        )


def test_large_gradients_are_clipped() -> None:
    model, optimizers = sharded(toy_model("impressions"))
    optimizers.zero_grad()
    loss, _ = model(_batches("impressions")[0])
    (1e4 * loss).backward()
    optimizers.step()
    gradients = [w.grad for _, w in model.named_parameters() if w.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    assert norm.item() == pytest.approx(1.0, rel=1e-4)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'adam'.*rowwise_adagrad, adagrad, sgd, adamw"):
        TableOptimizer(name="adam")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight_decay of tables is for 'adamw'"):
        TableOptimizer(weight_decay=0.1)
    for config in (TableOptimizer, DenseOptimizer):
        with pytest.raises(ValueError, match="above 0"):
            config(lr=0.0)


def test_an_optimizer_takes_over_the_state_of_an_earlier_one() -> None:
    model, earlier = sharded(toy_model("requests"), optimizer="adamw")
    for batch in _batches("requests", 3):
        earlier.zero_grad()
        model(batch)[0].backward()
        earlier.step()
    tables = TableOptimizer(name="adamw", lr=0.1, weight_decay=0.01)
    later = build_optimizer(model, tables, DenseOptimizer(lr=0.02), Schedule())
    later.take_over(earlier)
    taken, state = (one.state_dict()["state"] for one in (later, earlier))
    assert taken.keys() == state.keys()
    for name, values in state.items():
        assert values.keys() == taken[name].keys() >= {"exp_avg", "exp_avg_sq"}
        for key, value in values.items():
            assert torch.equal(whole(value), whole(taken[name][key])), (name, key)
            assert whole(value).any(), (name, key)


@pytest.mark.parametrize("kind", ["rowwise_adagrad", "adamw"])
def test_what_takes_over_in_the_middle_of_a_schedule_knows_the_peaks(kind: str) -> None:
    schedule = Schedule(warmup_steps=10)
    model, earlier = sharded(toy_model("requests"), optimizer=kind, schedule=schedule)
    earlier.set_step(1)
    tables = TableOptimizer(name=kind, lr=0.1)  # type: ignore[arg-type]
    later = build_optimizer(model, tables, DenseOptimizer(lr=0.02), schedule)
    later.take_over(earlier)
    later.set_step(9)
    assert later.learning_rates() == pytest.approx({"tables": 0.1, "dense": 0.02})
