"""MTGR learns rules that a part of its input alone tells, and holds them on unseen windows."""

from __future__ import annotations

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
from torchrec_gr.models.mtgr import MTGRRanker
from torchrec_gr.models.mtgr_config import Mask, MTGRConfig


def ranker(mask: Mask) -> MTGRRanker:
    torch.manual_seed(0)
    config = MTGRConfig(
        dim=16, num_layers=2, max_seq_len=16, init_std=0.3, mask=mask, position_bias=True
    )
    return MTGRRanker(config, window_schema(("click",)), TABLE_ROWS, TABLE_DIM)


@pytest.mark.parametrize("draw_one", [last_event_tells, cross_feature_tells])
def test_the_rule_is_learnt(draw_one: Draw) -> None:
    assert unseen_loss(ranker("dynamic"), draw_one, 100) < 0.3 * entropy(draw_one)


def test_without_the_dynamic_mask_later_exposures_cannot_know_the_last_event() -> None:
    assert unseen_loss(ranker("causal"), last_event_tells, 100) > 0.6 * entropy(last_event_tells)
