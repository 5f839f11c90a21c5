"""What a tuning may say."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from torchrec_gr.pretrained.tuning.pinfm_tuning import PinFMTuning


def test_nothing_is_switched_on_by_itself() -> None:
    tuning = PinFMTuning()
    assert not tuning.has_head
    values = dataclasses.asdict(tuning)
    weights = ("ranking", "agreement", "next_token", "alignment")
    assert [values[f"{name}_weight"] for name in weights] == [0, 0, 0, 0]


def test_it_goes_through_json() -> None:
    tuning = PinFMTuning(
        learnable_token=True,
        content={"topic": 5},
        age_key="age",
        ranking_weight=0.5,
        alignment_weight=0.1,
    )
    text = json.dumps(dataclasses.asdict(tuning))
    assert PinFMTuning(**json.loads(text)) == tuning


@pytest.mark.parametrize(
    ("weights", "has_head"),
    [({"ranking_weight": 0.1}, True), ({"agreement_weight": 0.1}, True), ({}, False)],
)
def test_a_head_is_there_for_the_losses_that_read_it(
    weights: dict[str, float], has_head: bool
) -> None:
    assert PinFMTuning(next_token_weight=1.0, **weights).has_head is has_head


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "middle"}, "unknown fusion 'middle': expected one of early, mean, last"),
        ({"fusion": "mean", "learnable_token": True}, "a learnable token needs early fusion"),
        ({"fusion": "last", "content": {"topic": 5}}, "content needs early fusion"),
        ({"content": {"topic": 0}}, "content 'topic' must have at least 1 row, got 0"),
        ({"replace_candidate": 1.5}, r"a share, in \[0, 1\], got 1.5"),
        ({"replace_candidate": float("nan")}, r"a share, in \[0, 1\], got nan"),
        ({"age_dropout": ((28, 0.5), (7, 0.7))}, r"days above 0, rising, got \[28, 7\]"),
        ({"age_dropout": ((7, 0.5), (7, 0.7))}, r"days above 0, rising, got \[7, 7\]"),
        ({"age_dropout": ((0, 0.5),)}, r"days above 0, rising, got \[0\]"),
        ({"age_dropout": ((7, 1.0),)}, r"under 7 days must be in \[0, 1\), got 1.0"),
        ({"ranking_weight": -1.0}, "ranking_weight must be at least 0 and finite, got -1.0"),
        ({"agreement_weight": float("inf")}, "agreement_weight must be at least 0 and finite"),
        ({"next_token_weight": float("nan")}, "next_token_weight must be at least 0 and finite"),
        ({"alignment_weight": 0.1}, "there is no content to align"),
        ({"max_pairs": 0}, "max_pairs must be at least 1, got 0"),
        ({"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PinFMTuning(**options)
