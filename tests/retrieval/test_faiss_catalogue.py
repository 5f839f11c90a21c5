"""Retrieval by faiss beside the exact catalogue."""

from __future__ import annotations

import builtins

import pytest
import torch

from torchrec_gr.retrieval.catalogue import NO_ITEM, Catalogue
from torchrec_gr.retrieval.faiss_catalogue import FaissCatalogue


def test_without_faiss_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def refuse(name: str, *arguments: object, **keywords: object) -> object:
        if name == "faiss":
            raise ImportError(name)
        return imported(name, *arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        FaissCatalogue(torch.ones(2, 2))


@pytest.mark.parametrize("num_lists", [None, 4])
def test_it_finds_what_the_exact_catalogue_finds(num_lists: int | None) -> None:
    """An inverted file is exact where all of its lists are looked into."""
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    torch.manual_seed(0)
    vectors, queries = torch.randn(300, 8), torch.randn(5, 8)
    ids = torch.randperm(10_000)[:300]
    seen = ids[torch.randint(300, (40,))]
    offsets = torch.tensor([0, 0, 20, 20, 21, 40])
    index = FaissCatalogue(vectors, ids, num_lists=num_lists, num_probes=4)
    expected = Catalogue(vectors, ids).top_k(queries, 12, seen, offsets)
    found = index.top_k(queries, 12, seen, offsets)
    assert torch.equal(found.ids, expected.ids)
    torch.testing.assert_close(found.scores, expected.scores)


def test_where_too_few_items_are_left_nothing_fills_up() -> None:
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    index = FaissCatalogue(torch.eye(3))
    found = index.top_k(torch.ones(1, 3), 5, torch.tensor([1]), torch.tensor([0, 1]))
    assert sorted(found.ids[0, :2].tolist()) == [0, 2]
    assert found.ids[0, 2:].tolist() == [NO_ITEM] * 3
    assert index.top_k(torch.zeros(0, 3), 5).ids.shape == (0, 5)


def test_what_cannot_be_is_refused() -> None:
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    with pytest.raises(ValueError, match="num_lists"):
        FaissCatalogue(torch.eye(3), num_lists=4)
    with pytest.raises(ValueError, match="ids"):
        FaissCatalogue(torch.eye(3), torch.arange(2))
    with pytest.raises(ValueError, match="k: expected"):
        FaissCatalogue(torch.eye(3)).top_k(torch.eye(3), 0)
