"""Candidates over a kept context: what a whole pass of each candidate by itself gives."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest
import torch
from torch import Tensor

from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.context_cache import ContextCache
from torchrec_gr.modules.mfalcon import cross_in_micro_batches, micro_batches
from torchrec_gr.modules.relative_bias import BiasKind
from torchrec_gr.modules.sequence_trunk import Block, SequenceTrunk, TrunkConfig
from torchrec_gr.sequences.candidate_layout import offsets_of
from torchrec_gr.sequences.visibility import causal

DIM, LONGEST = 8, 12
NUM_HISTORY = [5, 0, 1, 11, 3]
NUM_CANDIDATES = [4, 3, 0, 1, 7]


@dataclasses.dataclass(frozen=True)
class Requests:
    """Histories [T, D] and candidates [C, D] with times, request after request."""

    history: Tensor
    candidates: Tensor
    times: Tensor
    candidate_times: Tensor
    num_history: Tensor
    num_candidates: Tensor


def draw(num_history: list[int], num_candidates: list[int]) -> Requests:
    return Requests(
        torch.randn(sum(num_history), DIM),
        torch.randn(sum(num_candidates), DIM),
        torch.cat([torch.randint(10**5, (n,)).sort().values for n in num_history]),
        torch.randint(10**5, 10**6, (sum(num_candidates),)),
        torch.tensor(num_history),
        torch.tensor(num_candidates),
    )


def build(block: Block, bias: BiasKind) -> SequenceTrunk:
    torch.manual_seed(0)
    config = TrunkConfig(block, DIM, 3, 2, bias=bias, max_seq_len=LONGEST)
    trunk = SequenceTrunk(config).eval()
    for name, parameter in trunk.named_parameters():
        if "table" in name:  # as large as the scores, so that a wrong entry shows
            torch.nn.init.normal_(parameter)
    return trunk


def causal_rows(offsets: Tensor, times: Tensor | None) -> AttentionRows:
    return AttentionRows(offsets, offsets, causal(offsets), LONGEST, times=times)


def one_by_one(trunk: SequenceTrunk, given: Requests, *, timed: bool) -> Tensor:
    """A pass over [history ; candidate] for each candidate, of which the last row counts."""
    history = given.history.split(given.num_history.tolist())
    times = given.times.split(given.num_history.tolist())
    user_of = torch.arange(len(history)).repeat_interleave(given.num_candidates)
    found = [torch.empty(0, DIM)]
    for candidate, time, user in zip(
        given.candidates, given.candidate_times, user_of.tolist(), strict=True
    ):
        x = torch.cat([history[user], candidate[None]])
        known = torch.cat([times[user], time[None]]) if timed else None
        found.append(trunk(x, causal_rows(torch.tensor([0, len(x)]), known))[-1:])
    return torch.cat(found)


def encoded(trunk: SequenceTrunk, given: Requests, *, timed: bool) -> ContextCache:
    times = given.times if timed else None
    return trunk.context(given.history, causal_rows(offsets_of(given.num_history), times))


def crossed(
    trunk: SequenceTrunk, given: Requests, context: ContextCache, micro_batch: int, *, timed: bool
) -> Tensor:
    return cross_in_micro_batches(
        trunk,
        given.candidates,
        context,
        given.num_candidates,
        micro_batch=micro_batch,
        times=given.candidate_times if timed else None,
    )


@pytest.mark.parametrize("bias", get_args(BiasKind))
@pytest.mark.parametrize("block", get_args(Block))
def test_each_candidate_has_what_a_pass_of_its_own_gives(block: Block, bias: BiasKind) -> None:
    trunk, timed = build(block, bias), bias == "position_time"
    given = draw(NUM_HISTORY, NUM_CANDIDATES)
    with torch.no_grad():
        expected = one_by_one(trunk, given, timed=timed)
        context = encoded(trunk, given, timed=timed)
        for micro_batch in (1, 2, 4, 5, 15, 100):
            found = crossed(trunk, given, context, micro_batch, timed=timed)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("block", ["hstu", "hstu_research"])
@pytest.mark.parametrize(
    ("num_history", "num_candidates"),
    [
        ([3], [0]),
        ([0, 0], [0, 0]),
        ([0], [5]),
        ([0, 2, 0], [0, 1, 0]),
        ([11], [9]),
        ([1, 1], [2, 0]),
    ],
    ids=str,
)
def test_awkward_requests(block: Block, num_history: list[int], num_candidates: list[int]) -> None:
    trunk, given = build(block, "position"), draw(num_history, num_candidates)
    expected = one_by_one(trunk, given, timed=False)
    context = encoded(trunk, given, timed=False)
    for micro_batch in (1, 2, 64):
        found = crossed(trunk, given, context, micro_batch, timed=False)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_positions_of_the_callers_own() -> None:
    """Two tokens an event, at one position, as interleaved models may have it."""
    trunk, given = build("hstu_research", "position"), draw([6, 2], [3, 2])
    places = torch.tensor([0, 0, 1, 1, 2, 2, 0, 0])
    own = torch.tensor([3, 3, 3, 1, 1])
    rows = dataclasses.replace(causal_rows(offsets_of(given.num_history), None), positions=places)
    context = trunk.context(given.history, rows)
    found = cross_in_micro_batches(
        trunk, given.candidates, context, given.num_candidates, micro_batch=2, positions=own
    )
    for candidate, (row, position) in enumerate([(0, 3), (0, 3), (0, 3), (1, 1), (1, 1)]):
        first, last = int(context.offsets[row]), int(context.offsets[row + 1])
        x = torch.cat([given.history[first:last], given.candidates[candidate, None]])
        positions = torch.cat([places[first:last], torch.tensor([position])])
        alone = causal_rows(torch.tensor([0, len(x)]), None)
        expected = trunk(x, dataclasses.replace(alone, positions=positions))[-1]
        torch.testing.assert_close(found[candidate], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bias", ["none", "position", "alibi"])
def test_candidates_that_see_a_part_of_their_context(bias: BiasKind) -> None:
    trunk, given = build("hstu", bias), draw([5, 0, 4], [4, 1, 3])
    num_visible = torch.tensor([0, 5, 3, 5, 0, 2, 4, 1])
    rows = [
        torch.cat([given.history[first : first + n], candidate])
        for n, first, candidate in zip(
            num_visible.tolist(), [0, 0, 0, 0, 5, 5, 5, 5], given.candidates.split(1), strict=True
        )
    ]
    expected = torch.cat(
        [trunk(x, causal_rows(torch.tensor([0, len(x)]), None))[-1:] for x in rows]
    )
    context = encoded(trunk, given, timed=False)
    for micro_batch in (1, 3, 8):
        found = cross_in_micro_batches(
            trunk,
            given.candidates,
            context,
            given.num_candidates,
            micro_batch=micro_batch,
            num_visible=num_visible,
        )
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_kept_context_serves_other_requests_of_its_user() -> None:
    trunk, first = build("hstu", "alibi"), draw([7, 4], [3, 2])
    context = encoded(trunk, first, timed=False)
    again = dataclasses.replace(
        draw([4, 7, 4], [2, 1, 6]),
        history=torch.cat([first.history[7:], first.history[:7], first.history[7:]]),
    )
    found = crossed(trunk, again, context.select(torch.tensor([1, 0, 1])), 4, timed=False)
    expected = one_by_one(trunk, again, timed=False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_candidates_do_not_see_each_other() -> None:
    trunk, given = build("hstu", "position"), draw([4], [6])
    context = encoded(trunk, given, timed=False)
    whole = crossed(trunk, given, context, 6, timed=False)
    order = torch.tensor([5, 3, 0, 1, 4, 2])
    moved = dataclasses.replace(given, candidates=given.candidates[order])
    torch.testing.assert_close(crossed(trunk, moved, context, 6, timed=False), whole[order])


def test_gradients_are_those_of_one_pass_each() -> None:
    trunk, given = build("hstu_research", "position"), draw(NUM_HISTORY, NUM_CANDIDATES)
    given.history.requires_grad_()
    given.candidates.requires_grad_()
    read = [given.history, given.candidates, *trunk.parameters()]
    weights = torch.randn(sum(NUM_CANDIDATES), DIM)
    ways = (
        one_by_one(trunk, given, timed=False),
        crossed(trunk, given, encoded(trunk, given, timed=False), 4, timed=False),
    )
    expected, found = (torch.autograd.grad((way * weights).sum(), read) for way in ways)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_micro_batches_hold_all_candidates_in_order() -> None:
    parts = list(micro_batches(torch.tensor([0, 5, 0, 1, 2, 0]), 3))
    assert [part.candidates for part in parts] == [slice(0, 3), slice(3, 6), slice(6, 8)]
    assert [part.requests for part in parts] == [slice(1, 2), slice(1, 4), slice(4, 5)]
    assert [part.num_candidates.tolist() for part in parts] == [[3], [2, 0, 1], [2]]
    assert not list(micro_batches(torch.tensor([0, 0]), 3))
    assert not list(micro_batches(torch.tensor([], dtype=torch.int64), 3))


def test_what_does_not_fit_is_said() -> None:
    trunk, given = build("hstu", "none"), draw([2, 1], [3, 1])
    context = encoded(trunk, given, timed=False)
    with pytest.raises(ValueError, match="micro_batch: expected at least 1 candidate, got 0"):
        crossed(trunk, given, context, 0, timed=False)
    with pytest.raises(ValueError, match=r"x: expected a row for each of 4 candidates, got \[3, 8"):
        trunk.cross(given.candidates[1:], context, given.num_candidates)
    with pytest.raises(ValueError, match=r"num_candidates: expected one a request, \[2\]"):
        trunk.cross(given.candidates, context, torch.tensor([4]))
    with pytest.raises(ValueError, match="times are given of the candidates and not of the contex"):
        trunk.cross(given.candidates, context, given.num_candidates, times=given.candidate_times)
    timed = encoded(trunk, given, timed=True)
    with pytest.raises(ValueError, match="times are given of the context and not of the cand"):
        trunk.cross(given.candidates, timed, given.num_candidates)
