"""Merged events against a loop over the groups of each history."""

from __future__ import annotations

import pytest
import torch

from tests.modules.dense_longer import dense_merged
from torchrec_gr.modules.event_merging import EventMerger

LENGTHS = [7, 0, 1, 4, 12, 5]


@pytest.mark.parametrize("merge", [1, 2, 4, 20])
def test_tokens_and_every_gradient_are_the_definition(merge: int) -> None:
    torch.manual_seed(0)
    merger = EventMerger(8, merge, num_heads=2)
    events = torch.randn(sum(LENGTHS), 8, requires_grad=True)
    tokens, num_tokens = merger(events, torch.tensor(LENGTHS))
    assert num_tokens.tolist() == [-(-length // merge) for length in LENGTHS]
    expected = torch.cat([dense_merged(merger, part) for part in events.split(LENGTHS)])
    torch.testing.assert_close(tokens, expected)
    weights = torch.randn_like(tokens)
    leaves = [events, *merger.parameters()]
    for gradient, wanted in zip(
        torch.autograd.grad((tokens * weights).sum(), leaves),
        torch.autograd.grad((expected * weights).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-5)


def test_newer_groups_do_not_change_where_older_events_are_left_out() -> None:
    torch.manual_seed(0)
    merger, events = EventMerger(8, 4), torch.randn(11, 8)
    whole, _ = merger(events, torch.tensor([11]))
    cut, _ = merger(events[3:], torch.tensor([8]))
    torch.testing.assert_close(cut, whole[1:])


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_no_event_gives_no_token(lengths: list[int]) -> None:
    tokens, num_tokens = EventMerger(8, 3)(torch.zeros(0, 8), torch.tensor(lengths).long())
    assert tokens.shape == (0, 8)
    assert num_tokens.tolist() == lengths


def test_a_group_without_events_is_refused() -> None:
    with pytest.raises(ValueError, match="merge: expected at least 1, got 0"):
        EventMerger(8, 0)
