"""Candidates scored over kept histories: what the ranker says of each by itself."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.mtgr_windows import (
    TABLE_DIM,
    TABLE_ROWS,
    Window,
    batch_of,
    draw_window,
    window_schema,
)
from tests.models.window_rankers import awkward_windows
from torchrec_gr.models.hstu_ranker import HSTURanker
from torchrec_gr.models.hstu_ranker_config import HSTURankerConfig
from torchrec_gr.models.hstu_ranker_scoring import encode_histories, score_candidates
from torchrec_gr.modules.context_cache import ContextCache
from torchrec_gr.modules.sequence_trunk import TrunkConfig

HSTU: dict[str, Any] = {"bias": "position"}
TIMED: dict[str, Any] = {"block": "hstu_research", "bias": "position_time"}
GENRANK: dict[str, Any] = {"bias": "alibi"}
LIGR: dict[str, Any] = {"block": "ligr"}
ALL = ("position", "request_index", "time_gap")


def ranker(trunk: dict[str, Any], **of_config: Any) -> HSTURanker:
    """With tables and encodings of a size that shows."""
    torch.manual_seed(0)
    of_trunk = TrunkConfig(dim=8, num_layers=2, num_heads=2, max_seq_len=24, **trunk)
    config = HSTURankerConfig(of_trunk, task_hidden=5, init_std=0.7, **of_config)
    model = HSTURanker(config, window_schema(), TABLE_ROWS, TABLE_DIM).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("bias.", "encodings", "unknown_action")):
                parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def whole(model: HSTURanker, windows: Sequence[Window]) -> Tensor:
    with torch.no_grad():
        _, output = model(batch_of(windows))
    assert output.logits is not None
    return output.logits


def one_by_one(model: HSTURanker, windows: Sequence[Window]) -> Tensor:
    """A forward pass for each candidate, as if it were its window's only one."""
    alone = [w._replace(candidates=(c,)) for w in windows for c in w.candidates]
    return torch.cat([whole(model, [window]) for window in alone])


def without_histories(windows: Sequence[Window]) -> list[Window]:
    return [window._replace(events=(), num_static=0) for window in windows]


def without_candidates(windows: Sequence[Window]) -> list[Window]:
    return [window._replace(candidates=()) for window in windows]


@torch.no_grad()
def kept(model: HSTURanker, windows: Sequence[Window]) -> ContextCache:
    return encode_histories(model, batch_of(without_candidates(windows)))


@torch.no_grad()
def scores(
    model: HSTURanker, histories: ContextCache, windows: Sequence[Window], micro_batch: int
) -> Tensor:
    batch = batch_of(without_histories(windows))
    return score_candidates(model, histories, batch, micro_batch=micro_batch)


@pytest.mark.parametrize("trunk", [HSTU, TIMED, GENRANK, LIGR], ids=str)
@pytest.mark.parametrize("tokens", ["interleaved", "added"])
def test_each_candidate_has_the_score_of_a_pass_of_its_own(
    trunk: dict[str, Any], tokens: str
) -> None:
    model, windows = ranker(trunk, tokens=tokens, encodings=ALL), awkward_windows()
    expected, histories = one_by_one(model, windows), kept(model, windows)
    for micro_batch in (1, 2, 5, 100):
        found = scores(model, histories, windows, micro_batch)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("micro_batch", [1, 4, 100])
def test_candidates_of_a_moment_see_each_other_across_micro_batches(micro_batch: int) -> None:
    model, windows = ranker(LIGR, set_wise=True), awkward_windows()
    found = scores(model, kept(model, windows), windows, micro_batch)
    torch.testing.assert_close(found, whole(model, windows), atol=1e-5, rtol=0)


def test_more_candidates_than_a_row_has_room_for() -> None:
    model = ranker(HSTU)
    window = draw_window(random.Random(0), [1, 4, 9], 0, [10] * 40)
    with pytest.raises(ValueError, match="max_seq_len 24"):
        whole(model, [window])
    found = scores(model, kept(model, [window]), [window], 16)
    torch.testing.assert_close(found, one_by_one(model, [window]), atol=1e-5, rtol=0)


def test_a_kept_history_serves_later_requests_of_its_user() -> None:
    model, draw = ranker(HSTU, encodings=ALL), random.Random(0)
    users = [draw_window(draw, times, 0, [9]) for times in ([1, 3], [2, 2, 7], [])]
    store = [kept(model, [user]) for user in users]
    order = [2, 0, 1, 0]
    later = [
        users[user]._replace(candidates=draw_window(draw, [], 0, times).candidates)
        for user, times in zip(order, ([11], [12, 12, 12], [], [20]), strict=True)
    ]
    histories = ContextCache.concatenate(store).select(torch.tensor(order))
    found = scores(model, histories, later, 2)
    torch.testing.assert_close(found, one_by_one(model, later), atol=1e-5, rtol=0)


def test_what_a_history_holds_matters() -> None:
    model = ranker(HSTU)
    window, other = (draw_window(random.Random(s), [1, 4, 6], 0, [8, 9]) for s in range(2))
    other = other._replace(candidates=window.candidates)
    found = [scores(model, kept(model, [w]), [window], 2) for w in (window, other)]
    assert (found[0] - found[1]).abs().min() > 1e-4


def test_what_does_not_fit_is_said() -> None:
    model, windows = ranker(HSTU), awkward_windows()
    histories = kept(model, windows)
    assert histories.num_history.tolist() == [len(window.events) for window in windows]
    with pytest.raises(ValueError, match="histories of 9 requests and a batch of 2"):
        scores(model, histories, windows[:2], 4)
    with pytest.raises(ValueError, match="micro_batch: expected at least 1"):
        scores(model, histories, windows, 0)
