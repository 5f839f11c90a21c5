"""Ranks and the best items against sorting everything, whatever the budget."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from torchrec_gr.retrieval.catalogue import NO_ITEM, Catalogue

BUDGETS = [16, 16 * 7, 16 * 50, 2**20]


def case(num_queries: int = 9, num_items: int = 31) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors of few whole numbers: many scores are equal, and all of them exact."""
    torch.manual_seed(0)
    vectors = torch.randint(-1, 2, (num_items, 3)).float()
    ids = torch.randperm(1000)[:num_items] - 500
    return vectors, ids, torch.randint(-1, 2, (num_queries, 3)).float()


def seen_lists(ids: Tensor, num_queries: int) -> list[list[int]]:
    """None, all, repeated and unknown ones, and some."""
    torch.manual_seed(1)
    lists: list[list[int]] = [[], ids.tolist(), [7000, *ids[:3].tolist() * 2]]
    lists += [ids[torch.randperm(len(ids))[:n]].tolist() for n in range(num_queries - 3)]
    return lists[:num_queries]


def jagged(lists: list[list[int]]) -> tuple[Tensor, Tensor]:
    values = torch.tensor([value for row in lists for value in row], dtype=torch.int64)
    return values, torch.tensor([0, *itertools.accumulate(map(len, lists))])


def in_order(vectors: Tensor, ids: Tensor, query: Tensor, left_out: set[int]) -> list[int]:
    """All items that are left, the best first; of equal scores the lower id first."""
    scored = [
        (-(query @ vector).item(), item)
        for vector, item in zip(vectors, ids.tolist(), strict=True)
        if item not in left_out
    ]
    return [item for _, item in sorted(scored)]


@pytest.mark.parametrize("budget", BUDGETS)
def test_ranks_are_places_among_all_unseen_items(budget: int) -> None:
    vectors, ids, queries = case()
    lists = seen_lists(ids, len(queries))
    torch.manual_seed(2)
    targets = ids[torch.randint(len(ids), (len(queries),))]
    targets[4] = 7000  # not in the catalogue
    expected = []
    for query, target, seen in zip(queries, targets.tolist(), lists, strict=True):
        order = in_order(vectors, ids, query, set(seen) - {target})
        expected.append(order.index(target) + 1 if target in order else len(ids) + 1)
    ranks = Catalogue(vectors, ids, budget).ranks(queries, targets, *jagged(lists))
    assert ranks.tolist() == expected
    assert ranks[1] == 1  # all others are seen


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("k", [1, 4, 31, 40])
def test_top_k_are_the_first_of_all_unseen_items(budget: int, k: int) -> None:
    vectors, ids, queries = case()
    lists = seen_lists(ids, len(queries))
    best = Catalogue(vectors, ids, budget).top_k(queries, k, *jagged(lists))
    for row, (query, seen) in enumerate(zip(queries, lists, strict=True)):
        order = in_order(vectors, ids, query, set(seen))[:k]
        fill = k - len(order)
        assert best.ids[row].tolist() == order + [NO_ITEM] * fill
        scores = [(query @ vectors[ids == item][0]).item() for item in order]
        assert best.scores[row].tolist() == scores + [-torch.inf] * fill


def test_without_seen_items_all_are_ranked() -> None:
    vectors, ids, queries = case()
    best = Catalogue(vectors, ids).top_k(queries, len(ids))
    assert best.ids[0].tolist() == in_order(vectors, ids, queries[0], set())


def test_real_scores_keep_their_bits() -> None:
    torch.manual_seed(0)
    vectors, queries = torch.randn(50, 8), torch.randn(4, 8)
    best = Catalogue(vectors).top_k(queries, 50)
    scores = queries @ vectors.t()
    assert torch.equal(best.scores, scores.sort(dim=1, descending=True).values)
    assert torch.equal(best.scores, scores.gather(1, best.ids))


@pytest.mark.parametrize("budget", BUDGETS[1:])
def test_real_scores_give_the_same_whatever_the_budget(budget: int) -> None:
    torch.manual_seed(0)
    vectors, queries = torch.randn(90, 8), torch.randn(7, 8)
    seen, offsets = jagged([torch.randint(90, (n,)).tolist() for n in range(7)])
    targets = torch.randint(90, (7,))
    whole, pieces = Catalogue(vectors), Catalogue(vectors, budget_bytes=budget)
    best = pieces.top_k(queries, 20, seen, offsets)
    expected = whole.top_k(queries, 20, seen, offsets)
    assert torch.equal(best.ids, expected.ids)
    torch.testing.assert_close(best.scores, expected.scores)
    ranks = pieces.ranks(queries, targets, seen, offsets)
    assert torch.equal(ranks, whole.ranks(queries, targets, seen, offsets))
    orders = whole.top_k(queries, 90).ids.tolist()
    places = [orders[row].index(target) + 1 for row, target in enumerate(targets.tolist())]
    none = torch.zeros(0, dtype=torch.int64)
    assert pieces.ranks(queries, targets, none, torch.zeros(8).long()).tolist() == places


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_model_that_scores_all_alike_ranks_by_id(budget: int) -> None:
    """Not all first, as where ties are counted for the target."""
    catalogue = Catalogue(torch.ones(40, 2), torch.arange(40).flip(0), budget)
    seen, offsets = torch.tensor([0, 0, 3, 39]), torch.tensor([0, 0, 4])
    ranks = catalogue.ranks(torch.ones(2, 2), torch.tensor([39, 3]), seen, offsets)
    assert ranks.tolist() == [40, 3]
    best = catalogue.top_k(torch.ones(2, 2), 3, seen, offsets)
    assert best.ids.tolist() == [[0, 1, 2], [1, 2, 4]]


def test_values_that_are_not_finite_are_refused() -> None:
    vectors, ids, queries = case()
    queries[2, 1] = torch.nan
    with pytest.raises(ValueError, match="queries: expected finite"):
        Catalogue(vectors, ids).top_k(queries, 3)
    vectors[3, 0] = torch.inf
    with pytest.raises(ValueError, match="vectors: expected finite"):
        Catalogue(vectors, ids)


def test_a_zero_and_a_negative_zero_are_equal() -> None:
    catalogue = Catalogue(torch.tensor([[-0.0], [0.0], [-0.0]]))
    assert catalogue.top_k(torch.ones(1, 1), 3).ids.tolist() == [[0, 1, 2]]


def test_without_queries_there_is_nothing() -> None:
    vectors, ids, _ = case()
    catalogue, none = Catalogue(vectors, ids), torch.zeros(0, dtype=torch.int64)
    assert catalogue.ranks(torch.zeros(0, 3), none, none, torch.zeros(1).long()).shape == (0,)
    assert catalogue.top_k(torch.zeros(0, 3), 5).ids.shape == (0, 5)


def test_no_piece_is_larger_than_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, ids, queries = case(num_queries=200)
    sizes = []
    scores = Catalogue._scores

    def watched(*arguments: object) -> object:
        for first, piece in scores(*arguments):  # type: ignore[arg-type]
            sizes.append(piece.numel())
            yield first, piece

    monkeypatch.setattr(Catalogue, "_scores", watched)
    Catalogue(vectors, ids, budget_bytes=16 * 100).top_k(queries, 3)
    assert max(sizes) <= 100
    assert sum(sizes) == 200 * len(ids)


def test_what_does_not_fit_is_refused() -> None:
    vectors, ids, queries = case()
    catalogue = Catalogue(vectors, ids)
    seen, offsets = jagged(seen_lists(ids, len(queries)))
    with pytest.raises(ValueError, match="vectors: expected"):
        Catalogue(vectors[:0])
    with pytest.raises(ValueError, match="ids: expected \\[31\\]"):
        Catalogue(vectors, ids[1:])
    with pytest.raises(ValueError, match="more than once"):
        Catalogue(vectors, torch.zeros(len(ids), dtype=torch.int64))
    with pytest.raises(ValueError, match="budget_bytes"):
        Catalogue(vectors, budget_bytes=3)
    with pytest.raises(ValueError, match="queries: expected"):
        catalogue.top_k(queries[:, 1:], 3)
    with pytest.raises(ValueError, match="k: expected"):
        catalogue.top_k(queries, 0)
    with pytest.raises(ValueError, match="give both"):
        catalogue.top_k(queries, 3, seen)
    with pytest.raises(ValueError, match="targets: expected"):
        catalogue.ranks(queries, ids[:2], seen, offsets)
    with pytest.raises(ValueError, match="seen_offsets: expected"):
        catalogue.ranks(queries, ids[:9], seen[1:], offsets)
