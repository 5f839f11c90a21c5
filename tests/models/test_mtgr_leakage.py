"""Whatever happens after a moment, no prediction at or before it moves by a bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.mtgr_windows import (
    TABLE_DIM,
    TABLE_ROWS,
    Window,
    window_schema,
)
from tests.models.window_rankers import moments, moved, windows_of_few_times
from torchrec_gr.models import mtgr as model_file
from torchrec_gr.models import mtgr_rows
from torchrec_gr.models.mtgr import MTGRRanker
from torchrec_gr.models.mtgr_config import MTGRConfig
from torchrec_gr.modules.mtgr_layer import MTGRLayer

CONFIG = MTGRConfig(
    dim=16, num_layers=3, num_heads=2, max_seq_len=80, init_std=0.7, position_bias=True
)


@pytest.fixture
def windows() -> list[Window]:
    return windows_of_few_times()


def ranker(config: MTGRConfig) -> MTGRRanker:
    """Its norms and biases differ from group to group and from place to place."""
    torch.manual_seed(0)
    model = MTGRRanker(config, window_schema(), TABLE_ROWS, TABLE_DIM)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "position_table" in name:
                parameter.add_(0.5 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(
    "changes", [{}, {"position_bias": False}, {"mask": "causal"}, {"flow": "dfgr"}], ids=str
)
def test_the_future_moves_no_bit(changes: dict[str, Any], windows: list[Window]) -> None:
    model = ranker(dataclasses.replace(CONFIG, **changes))
    assert len(moments(windows)) > 4
    for moment in moments(windows):
        assert moved(model, windows, moment) == set(), moment


def test_the_future_moves_no_bit_of_a_candidate_without_a_past(windows: list[Window]) -> None:
    model = ranker(CONFIG)
    only = [w._replace(events=w.events[w.num_static :], num_static=0) for w in windows]
    assert moved(model, only, moments(only)[0]) == set()


def _own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate sees the events of its own time: its outcome may be one of them."""
    moments_of = mtgr_rows._moments
    monkeypatch.setattr(mtgr_rows, "_moments", lambda *given: moments_of(*given) + 1)


def _all_long_term(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask takes the whole history for long-term."""
    builder = mtgr_rows.mtgr
    monkeypatch.setattr(
        mtgr_rows,
        "mtgr",
        lambda offsets, static, real, times: builder(offsets, static + real, 0 * real, times),
    )


def _last_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All candidates of a window see what its last one does."""
    monkeypatch.setattr(
        mtgr_rows,
        "_moments",
        lambda inputs, config: torch.full_like(inputs.candidate_times, 16),
    )


def _by_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates stand behind the whole history, and the bias tells how long it is."""

    def of_rows(*given: Any) -> Any:
        rows = mtgr_rows.lay_out_rows(*given)
        sizes = rows.layout.offsets.diff()
        starts = rows.layout.offsets[:-1].repeat_interleave(sizes)
        return dataclasses.replace(rows, positions=torch.arange(len(starts)) - starts)

    monkeypatch.setattr(model_file, "lay_out_rows", of_rows)


def _by_row_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention is divided by the number of the row's tokens, as in the paper."""
    forward = MTGRLayer.forward

    def divided(self: Any, x: Tensor, rows: Any, groups: Tensor, positions: Tensor) -> Tensor:
        longest = int(rows.k_offsets.diff().max())
        x = x * (longest / 20)
        return forward(self, x, rows, groups, positions)

    monkeypatch.setattr(MTGRLayer, "forward", divided)


@pytest.mark.parametrize(
    ("plant", "caught"),
    [
        (_own_time, {"changed", "removed", "added"}),
        (_all_long_term, {"changed", "removed", "added"}),
        (_last_time, {"changed", "removed", "added"}),
        (_by_places, {"removed", "added"}),
        (_by_row_length, {"removed", "added"}),
    ],
)
def test_a_planted_leak_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None],
    caught: set[str],
    windows: list[Window],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    model = ranker(CONFIG)
    middle = moments(windows)[len(moments(windows)) // 2]
    assert moved(model, windows, middle) == caught
