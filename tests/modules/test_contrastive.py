"""InfoNCE against a loop over the pairs, straight from its equation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from torchrec_gr.modules.contrastive import MIN_TEMPERATURE, InfoNCE
from torchrec_gr.modules.event_pairs import EventPairs, future_pairs, window_pairs

DIM = 6


@dataclass
class Batch:
    """Rows of events, several rows of a user among them; each event is a query and a target."""

    offsets: Tensor
    users: Tensor
    ids: Tensor
    is_positive: Tensor

    @staticmethod
    def of(rows: list[tuple[int, list[tuple[int, bool]]]]) -> Batch:
        """From (user, [(item, whether positive), ...]) of each row."""
        events = [(user, item, positive) for user, row in rows for item, positive in row]
        users, ids, positive = zip(*events, strict=True) if events else ((), (), ())
        return Batch(
            torch.tensor([0, *(len(row) for _, row in rows)]).cumsum(0),
            torch.tensor(users, dtype=torch.int64),
            torch.tensor(ids, dtype=torch.int64),
            torch.tensor(positive, dtype=torch.bool),
        )

    def pairs(self, window: int = 3) -> EventPairs:
        return window_pairs(self.offsets, self.is_positive, window=window, max_pairs=None)

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Unit vectors of the queries and of the targets, that can be differentiated."""
        torch.manual_seed(len(self.ids))
        shape = (len(self.ids), DIM)
        return tuple(normalize(torch.randn(shape), dim=1).requires_grad_() for _ in range(2))  # type: ignore[return-value]


def _by_definition(
    batch: Batch, pairs: EventPairs, hidden: Tensor, targets: Tensor, temperature: Tensor
) -> Tensor:
    """[N] float64: a loop over the pairs, and in each over the batch."""
    users, ids = batch.users.tolist(), batch.ids.tolist()
    pool = batch.is_positive.nonzero().flatten().tolist()
    losses = [hidden.sum() * 0]
    for i, j in zip(pairs.query.tolist(), pairs.target.tolist(), strict=True):
        own = {ids[n] for n in pool if users[n] == users[i]}
        right = (hidden[i] @ targets[j] / temperature).exp()
        wrong = [(hidden[i] @ targets[n] / temperature).exp() for n in pool if ids[n] not in own]
        losses.append(-(right / torch.stack([right, *wrong]).sum()).log())
    return torch.stack(losses)[1:]


def _ours(
    loss: InfoNCE, batch: Batch, pairs: EventPairs, hidden: Tensor, targets: Tensor
) -> Tensor:
    return loss(hidden, batch.users, pairs, targets, batch.ids, batch.users, batch.is_positive)


def _check(batch: Batch, pairs: EventPairs, temperature: float) -> Tensor:
    """Values, and the gradients of everything; returns the values."""
    loss = InfoNCE(temperature)
    hidden, targets = batch.vectors()
    weights = torch.rand(len(pairs.query))
    ours = _ours(loss, batch, pairs, hidden, targets)
    learned = [hidden, targets, loss.log_temperature]
    exact = [x.detach().double().requires_grad_() for x in learned]
    learned_temperature = MIN_TEMPERATURE + (temperature - MIN_TEMPERATURE) * exact[2].exp()
    theirs = _by_definition(batch, pairs, *exact[:2], learned_temperature)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)
    our_gradients = torch.autograd.grad((ours * weights).sum(), learned)
    their_gradients = torch.autograd.grad((theirs * weights).sum(), exact, allow_unused=True)
    for mine, other in zip(our_gradients, their_gradients, strict=True):
        expected = torch.zeros_like(mine) if other is None else other.float()
        torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-4)
    return ours.detach()


EVENTS = st.lists(st.tuples(st.integers(1, 7), st.booleans()), max_size=7)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from([-5, 3, 2**60]), EVENTS), max_size=5),
    st.integers(1, 4),
    st.sampled_from([0.05, 0.3, 1.0]),
)
def test_is_the_definition(
    rows: list[tuple[int, list[tuple[int, bool]]]], window: int, temperature: float
) -> None:
    """Few items and users, so that users share items, items repeat and users have several rows."""
    batch = Batch.of(rows)
    _check(batch, batch.pairs(window), temperature)


def test_an_item_that_both_users_chose_is_no_negative_of_either() -> None:
    batch = Batch.of([(1, [(7, True), (8, True)]), (2, [(7, True), (9, True)])])
    pairs = EventPairs(torch.tensor([0, 2]), torch.tensor([1, 3]))
    hidden, targets = batch.vectors()
    ours = _check(batch, pairs, 0.1)
    for n, (i, j, wrong) in enumerate([(0, 1, 3), (2, 3, 1)]):
        logits = (hidden[i] @ targets[[j, wrong]].t()) / 0.1
        torch.testing.assert_close(ours[n], logits.logsumexp(0) - logits[0])


def test_other_rows_of_a_user_leave_their_items_out() -> None:
    """User 1's second row holds what the first may not count; the event not chosen leaves none."""
    batch = Batch.of([(1, [(5, True), (6, True)]), (1, [(7, True)]), (2, [(7, True), (6, False)])])
    assert _check(batch, batch.pairs(), 0.1).tolist() == [0.0]


def test_popular_items_count_as_often_as_they_occur() -> None:
    events = [(1, [(5, False), (6, True)]), (2, [(9, True)] * 3)]
    batch = Batch.of(events)
    pairs = EventPairs(torch.tensor([0]), torch.tensor([1]))
    hidden, targets = batch.vectors()
    with torch.no_grad():
        targets[2:] = targets[2].clone()
    right, wrong = (hidden[0] @ targets[1] / 0.1).exp(), (hidden[0] @ targets[2] / 0.1).exp()
    ours = _ours(InfoNCE(0.1), batch, pairs, hidden, targets)
    torch.testing.assert_close(ours, -(right / (right + 3 * wrong)).log().reshape(1))


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([], id="no rows"),
        pytest.param([(1, [(4, True)])], id="one event"),
        pytest.param([(1, [(4, False), (5, False)]), (2, [(4, False)])], id="no positives"),
    ],
)
def test_without_pairs_the_gradient_is_nil(rows: list[tuple[int, list[tuple[int, bool]]]]) -> None:
    batch = Batch.of(rows)
    pairs = batch.pairs()
    assert _check(batch, pairs, 0.1).shape == (0,)
    loss, (hidden, targets) = InfoNCE(0.1), batch.vectors()
    _ours(loss, batch, pairs, hidden, targets).sum().backward()
    for learned in (hidden, targets, loss.log_temperature):
        assert learned.grad is not None
        assert not learned.grad.any()


def test_no_negatives_left_costs_nothing() -> None:
    batch = Batch.of([(1, [(4, True), (5, True), (4, True)])])
    assert _check(batch, batch.pairs(), 0.05).tolist() == [0.0] * 3


def test_no_positive_at_all_leaves_a_named_pair_without_loss() -> None:
    """Pairs are of positive events; one that is not still gives a finite answer."""
    batch = Batch.of([(1, [(4, False), (5, False)])])
    pairs = EventPairs(torch.tensor([0]), torch.tensor([1]))
    hidden, targets = batch.vectors()
    losses = _ours(InfoNCE(0.1), batch, pairs, hidden, targets)
    assert losses.tolist() == [0.0]
    for gradient in torch.autograd.grad(losses.sum(), [hidden, targets]):
        assert not gradient.any()


def test_drawn_negatives() -> None:
    """Ten negatives of one vector: k of them drawn, or all where there are no more."""
    batch = Batch.of([(1, [(5, False), (6, True)]), (2, [(n, True) for n in range(10, 20)])])
    pairs = EventPairs(torch.tensor([0]), torch.tensor([1]))
    hidden, targets = batch.vectors()
    products = (targets @ hidden[0]).exp().tolist()
    wrong = dict(enumerate(products[2:], start=2))
    every = _ours(InfoNCE(1.0), batch, pairs, hidden, targets)
    for enough in (11, 12, 100):
        assert _ours(InfoNCE(1.0, enough), batch, pairs, hidden, targets).equal(every)
    torch.manual_seed(0)
    seen = set()
    for _ in range(400):
        loss = _ours(InfoNCE(1.0, 1), batch, pairs, hidden, targets)
        total = products[1] * (math.exp(loss.item()) - 1)
        nearest = min([*wrong.items(), (1, 0.0)], key=lambda entry: abs(entry[1] - total))
        assert nearest[1] == pytest.approx(total, abs=1e-5)
        seen.add(nearest[0])
    assert seen == set(range(1, 12))


def test_the_seed_decides_the_drawn_negatives() -> None:
    batch = Batch.of([(u, [(10 * u + n, True) for n in range(5)]) for u in range(4)])
    hidden, targets = batch.vectors()
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(_ours(InfoNCE(0.1, 4), batch, batch.pairs(), hidden, targets))
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])


def test_future_pairs_share_their_query() -> None:
    rows = [(u, [(10 * u + n, n % 3 > 0) for n in range(8)]) for u in range(3)]
    batch = Batch.of(rows)
    pairs = future_pairs(batch.offsets, batch.is_positive, served_length=3, window=4)
    assert len(pairs.query) > len(pairs.query.unique()) == 3
    _check(batch, pairs, 0.05)


def test_autocast_does_not_round_the_losses() -> None:
    batch = Batch.of([(u, [(10 * u + n, True) for n in range(5)]) for u in range(4)])
    hidden, targets = batch.vectors()
    expected = _ours(InfoNCE(0.05), batch, batch.pairs(), hidden, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = _ours(InfoNCE(0.05), batch, batch.pairs(), hidden, targets)
    assert ours.equal(expected)
    hidden, targets = hidden.bfloat16(), targets.bfloat16()
    assert _ours(InfoNCE(0.05), batch, batch.pairs(), hidden, targets).dtype == torch.float32


def test_the_temperature_nears_its_bound_and_does_not_pass_it() -> None:
    loss = InfoNCE(0.05)
    assert loss.temperature.item() == pytest.approx(0.05)
    assert loss.log_temperature.shape == ()
    batch = Batch.of([(u, [(10 * u + n, True) for n in range(5)]) for u in range(2)])
    hidden, targets = batch.vectors()
    with torch.no_grad():
        loss.log_temperature.fill_(-1e4)
    assert loss.temperature.item() == pytest.approx(MIN_TEMPERATURE)
    losses = _ours(loss, batch, batch.pairs(), hidden, targets)
    assert losses.isfinite().all()
    losses.sum().backward()
    assert all(x.grad.isfinite().all() for x in (hidden, targets, loss.log_temperature))


def test_numbers_too_low_are_refused() -> None:
    for temperature in (0.0, MIN_TEMPERATURE, float("nan")):
        with pytest.raises(ValueError, match="temperature: expected above"):
            InfoNCE(temperature)
    with pytest.raises(ValueError, match="num_negatives: expected at least 1"):
        InfoNCE(0.05, 0)
