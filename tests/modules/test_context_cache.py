"""Contexts of some requests, and of several caches, are what a loop over requests takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torchrec_gr.modules.context_cache import ContextCache

LENGTHS = [3, 0, 1, 5, 0, 2]


def contexts(
    lengths: list[int], *, summary: bool = False, layers: int = 2, placed: bool = False
) -> ContextCache:
    """Random keys [T, 2, 4] and values [T, 2, 3]; where asked, positions and times [T]."""
    num_tokens = sum(lengths)
    return ContextCache(
        keys=tuple(torch.randn(num_tokens, 2, 4) for _ in range(layers)),
        values=tuple(torch.randn(num_tokens, 2, 3) for _ in range(layers)),
        offsets=torch.tensor([0, *lengths]).cumsum(0),
        num_history=torch.tensor(lengths),
        summary=torch.randn(len(lengths), 4) if summary else None,
        positions=torch.randint(9, (num_tokens,)) if placed else None,
        times=torch.randint(99, (num_tokens,)) if placed else None,
    )


def of_request(cache: ContextCache, request: int) -> list[Tensor]:
    """All that a cache keeps of one request."""
    first, last = int(cache.offsets[request]), int(cache.offsets[request + 1])
    tokens = (*cache.keys, *cache.values, cache.positions, cache.times)
    parts = [values[first:last] for values in tokens if values is not None]
    parts.append(cache.num_history[request])
    return parts if cache.summary is None else [*parts, cache.summary[request]]


def assert_requests(cache: ContextCache, expected: list[list[Tensor]]) -> None:
    assert cache.num_requests == len(expected) == len(cache.offsets) - 1
    for request, parts in enumerate(expected):
        for found, part in zip(of_request(cache, request), parts, strict=True):
            assert torch.equal(found, part)


@pytest.mark.parametrize("summary", [False, True])
@pytest.mark.parametrize(
    "requests", [[], [0], [1], [5, 4, 3, 2, 1, 0], [3, 3, 1, 3], [1, 4]], ids=str
)
def test_select(requests: list[int], summary: bool) -> None:
    cache = contexts(LENGTHS, summary=summary, placed=summary)
    found = cache.select(torch.tensor(requests, dtype=torch.int64))
    assert_requests(found, [of_request(cache, request) for request in requests])


def test_select_of_late_fusion_needs_no_layers() -> None:
    cache = contexts(LENGTHS, summary=True, layers=0)
    found = cache.select(torch.tensor([3, 1]))
    assert found.keys == found.values == ()
    assert_requests(found, [of_request(cache, 3), of_request(cache, 1)])


@pytest.mark.parametrize(("first", "last"), [(0, 6), (0, 1), (1, 2), (2, 5), (3, 3), (6, 6)])
def test_between(first: int, last: int) -> None:
    cache = contexts(LENGTHS, summary=True, placed=True)
    found = cache.between(first, last)
    assert_requests(found, [of_request(cache, request) for request in range(first, last)])
    assert found.offsets[0] == 0
    assert found.keys[0].untyped_storage().data_ptr() == cache.keys[0].untyped_storage().data_ptr()


@pytest.mark.parametrize("summary", [False, True])
def test_concatenate(summary: bool) -> None:
    each = LENGTHS, [0], [4, 1]
    caches = [contexts(lengths, summary=summary, placed=summary) for lengths in each]
    joined = ContextCache.concatenate(caches)
    expected = [of_request(c, request) for c in caches for request in range(c.num_requests)]
    assert_requests(joined, expected)
    assert ContextCache.concatenate(caches[:1]) is caches[0]


def test_gradients_of_repeated_requests_sum() -> None:
    cache = contexts([2, 3])
    cache.keys[0].requires_grad_()
    cache.select(torch.tensor([1, 1, 0])).keys[0].sum().backward()
    grad = cache.keys[0].grad
    assert grad is not None
    assert torch.equal(grad[:, 0, 0], torch.tensor([1.0, 1.0, 2.0, 2.0, 2.0]))


def test_num_bytes() -> None:
    cache = contexts(LENGTHS, summary=True)
    numbers = sum(LENGTHS) * 2 * (4 + 3) * 2 + len(LENGTHS) * 4
    assert cache.num_bytes == 4 * numbers + 8 * (2 * len(LENGTHS) + 1)
    placed = contexts(LENGTHS, summary=True, placed=True)
    assert placed.num_bytes == cache.num_bytes + 2 * 8 * sum(LENGTHS)
