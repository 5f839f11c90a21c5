"""Learning rates of groups, and groups that are frozen at first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.toy import ToyLoader, ToyLog, sharded, toy_model, whole
from torchrec_gr.training.optimizer import Schedule
from torchrec_gr.training.parameter_groups import FOR_GOOD, ParameterGroup, group_of
from torchrec_gr.training.strategy import STRATEGIES, moves_dense, parameter_groups
from torchrec_gr.training.tables import table_of

NAMES = ["a.embeddings.item.weight", "a.embeddings.user.weight", "body.head.weight", "body.bias"]


def test_a_group_has_what_its_patterns_mean() -> None:
    slow = ParameterGroup(("item", "body.head.*"), lr_scale=0.1)
    later = ParameterGroup(("*.user.*",), frozen_steps=3)
    found = group_of(NAMES, [slow, later])
    assert found == {NAMES[0]: slow, NAMES[1]: later, NAMES[2]: slow}


def test_bad_groups_are_named() -> None:
    with pytest.raises(ValueError, match=r"'itme': did you mean 'item'"):
        group_of(NAMES, [ParameterGroup(("itme",))])
    with pytest.raises(ValueError, match=r"item\.weight is in two groups"):
        group_of(NAMES, [ParameterGroup(("item",)), ParameterGroup(("a.*",))])
    for options, message in (
        ({"patterns": "item"}, "in a tuple"),
        ({"patterns": ()}, "at least one"),
        ({"patterns": ("item",), "lr_scale": 0.0}, "above 0"),
        ({"patterns": ("item",), "frozen_steps": -1}, "negative"),
    ):
        with pytest.raises(ValueError, match=message):
            ParameterGroup(**options)  # type: ignore[arg-type]


def _rates(optimizer: Any) -> dict[str, float]:
    names = {weight: name for name, weight in optimizer.params.items()}
    return {names[w]: group["lr"] for group in optimizer.param_groups for w in group["params"]}


@pytest.mark.parametrize("kind", ["rowwise_adagrad", "adamw"])
def test_each_group_trains_at_its_own_rate(kind: str) -> None:
    groups = [ParameterGroup(("item", "body.head.*"), lr_scale=0.1)]
    _, optimizer = sharded(
        toy_model("requests"), optimizer=kind, schedule=Schedule(warmup_steps=4), groups=groups
    )
    optimizer.set_step(1)
    rates = _rates(optimizer)
    for name, rate in rates.items():
        peak = 0.1 if table_of(name) else 0.02
        scale = 0.1 if table_of(name) == "item" or ".head." in name else 1.0
        assert rate == pytest.approx(peak * scale / 2), name


def _train(groups: list[ParameterGroup], view: str, num_steps: int) -> list[dict[str, Tensor]]:
    """The weights before the first step and after each."""
    model, optimizer = sharded(toy_model(view), groups=groups)
    batches, seen = iter(ToyLoader(ToyLog(), view, batch_size=4)), []
    for step in range(num_steps + 1):
        seen.append({name: whole(w).clone() for name, w in model.state_dict().items()})
        if step < num_steps:
            optimizer.set_step(step)
            optimizer.zero_grad()
            loss, _ = model(next(batches))
            loss.backward()
            optimizer.step()
    return seen


@pytest.mark.parametrize("view", ["requests", "impressions"])
def test_a_group_is_frozen_for_its_steps_and_then_trains(view: str) -> None:
    frozen = ParameterGroup(("item", "body.hidden.*"), lr_scale=0.5, frozen_steps=3)
    seen = _train([frozen], view, 6)
    for name in seen[0]:
        in_group = table_of(name) == "item" or ".hidden." in name
        for step in range(6):
            moved = not torch.equal(seen[step][name], seen[step + 1][name])
            assert moved == (step >= 3 or not in_group), (name, step)


def test_what_is_frozen_for_good_has_no_state() -> None:
    groups = [ParameterGroup(("item", "body.hidden.*"), frozen_steps=FOR_GOOD)]
    _, optimizer = sharded(toy_model("requests"), groups=groups)
    state = optimizer.state_dict()["state"]
    assert state["embeddings.embeddings.item.weight"] == {}
    assert state["embeddings.embeddings.user.weight"]
    assert not any(".hidden." in name for name in state)
    before, *_, after = _train(groups, "requests", 4)
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert kept == {n for n in before if table_of(n) == "item" or ".hidden." in n}


def test_each_strategy_has_its_groups() -> None:
    expected: dict[str, list[ParameterGroup]] = {
        "none": [],
        "sparse": [],
        "sparse-freeze": [ParameterGroup(("item",), frozen_steps=FOR_GOOD)],
        "sparse-thaw": [ParameterGroup(("item",), frozen_steps=5)],
        "sparse-slow": [ParameterGroup(("item",), 0.1)],
        "full": [],
        "full-freeze": [ParameterGroup(("item",), frozen_steps=FOR_GOOD)],
        "full-thaw": [ParameterGroup(("item",), frozen_steps=5)],
        "full-slow": [ParameterGroup(("item",), 0.1), ParameterGroup(("body.w",), 0.1)],
        "frozen": [ParameterGroup(("item", "body.w"), frozen_steps=FOR_GOOD)],
    }
    for strategy in STRATEGIES:
        tables = [] if strategy == "none" else ["item"]
        dense = ["body.w"] if moves_dense(strategy) else []
        groups = parameter_groups(strategy, tables, dense, thaw_after=5)
        assert list(groups) == expected[strategy], strategy
    scaled = parameter_groups("sparse", ["item"], [], thaw_after=5, table_scale=0.03)
    assert list(scaled) == [ParameterGroup(("item",), 0.03)]
    assert not parameter_groups("none", ["item"], [], thaw_after=5, table_scale=0.03)
