"""What may be frozen. That it holds under every sharding is in test_two_processes.py."""

from __future__ import annotations

import pytest

from tests.training.toy import sharded, toy_model
from torchrec_gr.training.freeze import freeze_tables


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
