"""Whatever happens after a moment, no prediction at or before it moves by a bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.models.mtgr_windows import TABLE_DIM, TABLE_ROWS, Window, window_schema
from tests.models.window_rankers import moments, moved, windows_of_few_times
from torchrec_gr.models import hstu_ranker as model_file
from torchrec_gr.models.hstu_ranker import HSTURanker
from torchrec_gr.models.hstu_ranker_config import HSTURankerConfig
from torchrec_gr.modules.sequence_trunk import TrunkConfig
from torchrec_gr.modules.set_wise_layer import SetWiseLayer

TRUNK = TrunkConfig(dim=16, num_layers=3, num_heads=2, max_seq_len=80, bias="position_time")
ALL = HSTURankerConfig(
    trunk=TRUNK, encodings=("position", "request_index", "time_gap"), set_wise=True, init_std=0.7
)
CONFIGS = {
    "hstu": ALL,
    "genrank": dataclasses.replace(
        ALL, tokens="added", trunk=dataclasses.replace(TRUNK, bias="alibi")
    ),
    "ligr": dataclasses.replace(ALL, trunk=dataclasses.replace(TRUNK, block="ligr")),
}


@pytest.fixture
def windows() -> list[Window]:
    return windows_of_few_times()


def ranker(config: HSTURankerConfig) -> HSTURanker:
    """Its norms, biases and encodings differ from place to place."""
    torch.manual_seed(0)
    model = HSTURanker(config, window_schema(), TABLE_ROWS, TABLE_DIM)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("norm", "bias.", "encodings")):
                parameter.add_(0.5 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_the_future_moves_no_bit(name: str, windows: list[Window]) -> None:
    model = ranker(CONFIGS[name])
    assert len(moments(windows)) > 4
    atol = 5e-7 if name == "ligr" else 0.0
    for moment in moments(windows):
        assert moved(model, windows, moment, atol) == set(), moment


def _own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate sees the events of its own time: its outcome may be one of them."""
    before = model_file.before_candidates
    monkeypatch.setattr(
        model_file, "before_candidates", lambda *given: before(*given[:3], given[3] + 1)
    )


def _last_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All candidates of a window see what its last one does."""
    before = model_file.before_candidates
    monkeypatch.setattr(
        model_file,
        "before_candidates",
        lambda *given: before(*given[:3], torch.full_like(given[3], 16)),
    )


def _contextual_sees_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """HSTU's production mask: what the user's tokens read, every candidate reads of them."""
    lay_out = model_file.lay_out_context

    def of_all(user: Any, *given: Any) -> Any:
        context = lay_out(user, *given)
        rows = context.rows
        lengths = rows.k_offsets.diff()
        is_user = rows.positions < user.shape[0] // len(lengths)
        ends = lengths.repeat_interleave(lengths).int()
        spans = dataclasses.replace(rows.spans, end=torch.where(is_user, ends, rows.spans.end))
        return context._replace(rows=dataclasses.replace(rows, spans=spans))

    monkeypatch.setattr(model_file, "lay_out_context", of_all)


def _by_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates stand behind the whole history, and the bias tells how long it is."""
    lay_out = model_file.lay_out_rows

    def of_rows(*given: Any) -> Any:
        layout, rows = lay_out(*given)
        sizes = layout.offsets.diff()
        starts = layout.offsets[:-1].repeat_interleave(sizes)
        return layout, dataclasses.replace(rows, positions=torch.arange(len(starts)) - starts)

    monkeypatch.setattr(model_file, "lay_out_rows", of_rows)


def _counted_from_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are counted back from the row's last event."""
    before = model_file.before_candidates

    def counted(num_history: Any, times: Any, num_candidates: Any, moments: Any) -> Any:
        seen = before(num_history, times, num_candidates, moments)
        all_seen = before(num_history, times, num_candidates, torch.full_like(moments, 99))
        return seen._replace(num_times=all_seen.num_times - seen.num_times)

    monkeypatch.setattr(model_file, "before_candidates", counted)


def _one_set_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """All candidates of a window are taken for one request."""
    forward = SetWiseLayer.forward
    monkeypatch.setattr(
        SetWiseLayer,
        "forward",
        lambda self, x, lengths, times: forward(self, x, lengths, torch.zeros_like(times)),
    )


@pytest.mark.parametrize(
    ("plant", "caught"),
    [
        (_own_time, {"changed", "removed", "added"}),
        (_last_time, {"changed", "removed", "added"}),
        (_contextual_sees_history, {"changed", "removed", "added"}),
        (_one_set_a_row, {"changed", "removed", "added"}),
        (_by_places, {"removed", "added"}),
        (_counted_from_the_end, {"removed"}),
    ],
)
def test_a_planted_leak_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None],
    caught: set[str],
    windows: list[Window],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    model = ranker(ALL)
    middle = moments(windows)[len(moments(windows)) // 2]
    assert moved(model, windows, middle) == caught
