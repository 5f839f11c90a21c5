"""HSTU's ranker learns rules that a part of its input alone tells, and holds them when unseen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models.mtgr_windows import TABLE_DIM, TABLE_ROWS, window_schema
from tests.models.window_rules import (
    Draw,
    cross_feature_tells,
    entropy,
    last_event_tells,
    unseen_loss,
)
from torchrec_gr.models.hstu_ranker import HSTURanker
from torchrec_gr.models.hstu_ranker_config import HSTURankerConfig
from torchrec_gr.modules.sequence_trunk import TrunkConfig


def ranker(trunk: dict[str, Any], **sizes: Any) -> HSTURanker:
    torch.manual_seed(0)
    config = HSTURankerConfig(
        trunk=TrunkConfig(dim=16, num_layers=2, num_heads=2, max_seq_len=24, **trunk),
        init_std=0.3,
        **sizes,
    )
    return HSTURanker(config, window_schema(("click",)), TABLE_ROWS, TABLE_DIM)


FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "hstu": ({}, {}),
    "genrank": ({"bias": "alibi"}, {"tokens": "added"}),
    "ligr": ({"block": "ligr"}, {"set_wise": True}),
}


def assert_learns(form: str, draw_one: Draw) -> None:
    trunk, sizes = FORMS[form]
    assert unseen_loss(ranker(trunk, **sizes), draw_one, 150) < 0.4 * entropy(draw_one)


def test_the_last_events_action_is_read() -> None:
    assert_learns("hstu", last_event_tells)


@pytest.mark.slow
@pytest.mark.parametrize("draw_one", [last_event_tells, cross_feature_tells])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_learns_every_rule(form: str, draw_one: Draw) -> None:
    assert_learns(form, draw_one)
