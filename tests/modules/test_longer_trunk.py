"""LONGER's layers against masks of whole rows, one candidate at a time."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.modules.dense_longer import dense_longer
from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.longer_trunk import LongerTrunk
from torchrec_gr.modules.relative_bias import BiasKind
from torchrec_gr.modules.sequence_trunk import Block, SequenceTrunk, TrunkConfig
from torchrec_gr.sequences.candidate_layout import lay_out_candidates
from torchrec_gr.sequences.visibility import ranking_targets

CONFIG = TrunkConfig(block="sasrec", dim=8, num_layers=3, num_heads=2, max_seq_len=20)
HISTORIES, CANDIDATES = [9, 0, 1, 14, 6], [2, 1, 3, 0, 1]


def inputs(num_user: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    shapes = (len(HISTORIES), num_user), (sum(HISTORIES),), (sum(CANDIDATES),)
    user, events, candidates = (torch.randn(*shape, 8, requires_grad=True) for shape in shapes)
    return user, events, candidates, torch.tensor(HISTORIES), torch.tensor(CANDIDATES)


def make_trunk(merge: int, num_recent: int, config: TrunkConfig = CONFIG) -> LongerTrunk:
    torch.manual_seed(0)
    trunk = LongerTrunk(config, merge, num_recent)
    for parameter in trunk.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return trunk


@pytest.mark.parametrize("num_user", [0, 2])
@pytest.mark.parametrize(("merge", "num_recent"), [(1, 3), (2, 2), (4, 1), (3, 99)])
def test_candidates_and_every_gradient_are_the_definition(
    num_user: int, merge: int, num_recent: int
) -> None:
    trunk = make_trunk(merge, num_recent)
    given = user, events, candidates, _, _ = inputs(num_user)
    found = trunk(*given)
    histories, of_requests = events.split(HISTORIES), candidates.split(CANDIDATES)
    expected = torch.stack(
        [
            dense_longer(trunk, user[u], histories[u], candidate)
            for u in range(len(HISTORIES))
            for candidate in of_requests[u]
        ]
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    weights = torch.randn_like(found)
    leaves = [*given[:3], *trunk.parameters()]
    for gradient, wanted in zip(
        torch.autograd.grad((found * weights).sum(), leaves),
        torch.autograd.grad((expected * weights).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(gradient, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("bias", ["none", "position", "alibi"])
@pytest.mark.parametrize("block", ["hstu", "hstu_research", "sasrec", "ligr"])
def test_without_merging_and_cutting_it_is_the_ordinary_trunk(block: Block, bias: BiasKind) -> None:
    config = dataclasses.replace(CONFIG, block=block, bias=bias)
    trunk, ordinary = make_trunk(1, 14, config), SequenceTrunk(config)
    ordinary.layers.load_state_dict(trunk.layers.state_dict())
    user, events, candidates, num_events, num_candidates = inputs(0)
    layout = lay_out_candidates(num_events, num_candidates)
    rows = AttentionRows(
        layout.offsets,
        layout.offsets,
        ranking_targets(layout.offsets, layout.num_history),
        config.max_seq_len,
        positions=layout.positions,
    )
    expected = ordinary(layout.interleave(events, candidates), rows, layout.candidate_index)
    found = trunk(user, events, candidates, num_events, num_candidates)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("block", ["hstu", "hstu_research", "sasrec", "ligr"])
def test_a_candidate_does_not_know_the_others(block: Block) -> None:
    config = dataclasses.replace(CONFIG, block=block, bias="position")
    trunk = make_trunk(2, 3, config)
    user, events, candidates, num_events, num_candidates = inputs(2)
    together = trunk(user, events, candidates, num_events, num_candidates)
    changed = candidates.detach().clone()
    changed[1:3] = 7.0
    others = trunk(user, events, changed, num_events, num_candidates)
    unchanged = [0, *range(3, len(candidates))]
    assert torch.equal(others[unchanged], together[unchanged])
    assert not torch.allclose(others[1:3], together[1:3])
    alone = trunk(user[:1], events[:9], candidates[1:2], num_events[:1], torch.tensor([1]))
    torch.testing.assert_close(alone[0], together[1])


def test_events_beyond_the_recent_ones_are_read_in_the_first_layer() -> None:
    trunk = make_trunk(2, 1)
    user, events, candidates, num_events, num_candidates = inputs(1)
    before = trunk(user, events, candidates, num_events, num_candidates)
    changed = events.detach().clone()
    changed[0] += 3.0  # the oldest of nine
    after = trunk(user, changed, candidates, num_events, num_candidates)
    assert not torch.allclose(after[:2], before[:2], atol=1e-3)
    assert torch.equal(after[2:], before[2:])


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match="num_layers: expected at least 2"):
        LongerTrunk(dataclasses.replace(CONFIG, num_layers=1), 2, 2)
    with pytest.raises(ValueError, match="num_recent: expected at least 1"):
        LongerTrunk(CONFIG, 2, 0)
    with pytest.raises(ValueError, match="merged events have no time"):
        LongerTrunk(dataclasses.replace(CONFIG, bias="position_time"), 2, 2)
    with pytest.raises(ValueError, match="15 tokens, more than max_seq_len 14"):
        make_trunk(1, 2, dataclasses.replace(CONFIG, max_seq_len=14))(*inputs(0))
