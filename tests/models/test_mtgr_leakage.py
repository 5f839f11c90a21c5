"""Whatever happens after a moment, no prediction at or before it moves by a bit."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.mtgr_windows import (
    TABLE_DIM,
    TABLE_ROWS,
    Candidate,
    Event,
    Window,
    batch_of,
    changed,
    draw_candidate,
    draw_event,
    draw_window,
    window_schema,
)
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
    """Real-time events and candidates at few times, so that most are equal to others."""
    draw = random.Random(0)

    def times(count: int) -> list[int]:
        return sorted(draw.randrange(10, 16) for _ in range(count))

    static = [[1, 2, 2], [], [4]]
    return [draw_window(draw, s + times(7), len(s), times(6)) for s in static]


def ranker(config: MTGRConfig) -> MTGRRanker:
    """Its norms and biases differ from group to group and from place to place."""
    torch.manual_seed(0)
    model = MTGRRanker(config, window_schema(), TABLE_ROWS, TABLE_DIM)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "position_table" in name:
                parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def moved(model: MTGRRanker, windows: list[Window], moment: int) -> set[str]:
    """What of the future changes a prediction at or before a moment, in any bit.

    The future is every event that is not earlier than the moment, and every later candidate.
    """
    draw = random.Random(1)

    def is_future(x: Event | Candidate) -> bool:
        return x.time > moment or (x.time == moment and isinstance(x, Event))

    def another(x: Event | Candidate) -> Event | Candidate:
        return (draw_event if isinstance(x, Event) else draw_candidate)(draw, x.time)

    futures: dict[str, Callable[[Any], list[Any]]] = {
        "changed": lambda x: [another(x)] if is_future(x) else [x],
        "removed": lambda x: [] if is_future(x) else [x],
        "added": lambda x: [x, another(x), another(x)] if is_future(x) else [x],
    }
    # What is removed goes to a window of its own, for a product of matrices of fewer rows may round
    # differently.
    gone = [changed(w, lambda x: [x] if is_future(x) else []) for w in windows]
    events = tuple(sorted((e for w in gone for e in w.events), key=lambda e: e.time))
    candidates = tuple(c for w in gone for c in w.candidates)
    elsewhere = {"removed": Window(events, 0, candidates, 0, 0.0)}
    nothing = Window((), 0, (), 0, 0.0)

    num_compared = sum(c.time <= moment for w in windows for c in w.candidates)
    before = logits_until(model, [*windows, nothing], moment)
    assert len(before) == num_compared > 0
    found = set()
    for name, future in futures.items():
        of_others = elsewhere.get(name, nothing)
        after = logits_until(model, [*(changed(w, future) for w in windows), of_others], moment)
        if not torch.equal(before, after):
            found.add(name)
    return found


def logits_until(model: MTGRRanker, windows: list[Window], moment: int) -> Tensor:
    batch = batch_of(windows)
    with torch.no_grad():
        _, output = model(batch)
    assert output.logits is not None
    return output.logits[batch.candidate_times <= moment]


def moments(windows: list[Window]) -> list[int]:
    return sorted({c.time for window in windows for c in window.candidates})


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
