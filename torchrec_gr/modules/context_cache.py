"""What is kept of encoded contexts, so that candidates need only to cross them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class ContextCache:
    """The keys and values of U requests' contexts, T tokens in all, in every layer.

    Args:
        keys: one a layer, [T, H, A]; none where candidates do not cross the context.
        values: one a layer, [T, H, V]; likewise.
        offsets: [U + 1] int64, where each request's context begins.
        num_history: [U] int64, the events of each request.
        summary: [U, D], the pooled context of late fusion; None in early fusion.
        positions, times: [T], of the context's tokens, for layers with a bias over them; None:
            places in the row, and no times.

    Source: PinFM, 2507.12704, section on DCAT: context and crossing.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    offsets: Tensor
    num_history: Tensor
    summary: Tensor | None = None
    positions: Tensor | None = None
    times: Tensor | None = None

    @property
    def num_requests(self) -> int:
        """U."""
        return self.num_history.shape[0]

    @property
    def num_bytes(self) -> int:
        """In memory."""
        tensors = [*self.keys, *self.values, self.offsets, self.num_history]
        others = self.summary, self.positions, self.times
        return sum(x.nbytes for x in (*tensors, *others) if x is not None)

    def to(self, device: torch.device) -> ContextCache:
        """The cache on a device."""
        return self._each(
            lambda tokens: tokens.to(device),
            lambda requests: requests.to(device),
            self.offsets.to(device),
        )

    def select(self, requests: Tensor) -> ContextCache:
        """The contexts of some requests.

        Args:
            requests: [n] int64, places among the U, in any order, repeated or not.
        """
        num_tokens = self.offsets.diff().index_select(0, requests)
        offsets = _offsets(num_tokens)
        shifts = self.offsets.index_select(0, requests) - offsets[:-1]
        tokens = shifts.repeat_interleave(num_tokens)
        tokens += torch.arange(tokens.shape[0], device=tokens.device)
        return self._each(
            lambda x: x.index_select(0, tokens), lambda x: x.index_select(0, requests), offsets
        )

    def between(self, first: int, last: int) -> ContextCache:
        """The contexts of requests `first` to `last`, the last not among them; copies no keys."""
        offsets = self.offsets[first : last + 1]
        begin, end = int(offsets[0]), int(offsets[-1])
        return self._each(lambda x: x[begin:end], lambda x: x[first:last], offsets - begin)

    @staticmethod
    def concatenate(caches: Sequence[ContextCache]) -> ContextCache:
        """The requests of one cache behind those of another.

        Args:
            caches: one at least, all of one encoder.
        """
        if len(caches) == 1:
            return caches[0]

        def layers(of: Callable[[ContextCache], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
            return tuple(torch.cat(parts) for parts in zip(*map(of, caches), strict=True))

        def joined(of: Callable[[ContextCache], Tensor | None]) -> Tensor | None:
            parts = [part for part in map(of, caches) if part is not None]
            return torch.cat(parts) if parts else None

        return ContextCache(
            layers(lambda cache: cache.keys),
            layers(lambda cache: cache.values),
            _offsets(torch.cat([cache.offsets.diff() for cache in caches])),
            torch.cat([cache.num_history for cache in caches]),
            joined(lambda cache: cache.summary),
            joined(lambda cache: cache.positions),
            joined(lambda cache: cache.times),
        )

    def _each(
        self,
        of_tokens: Callable[[Tensor], Tensor],
        of_requests: Callable[[Tensor], Tensor],
        offsets: Tensor,
    ) -> ContextCache:
        """Made of what is kept of each token, and of what is kept of each request."""
        return ContextCache(
            tuple(map(of_tokens, self.keys)),
            tuple(map(of_tokens, self.values)),
            offsets,
            of_requests(self.num_history),
            None if self.summary is None else of_requests(self.summary),
            None if self.positions is None else of_tokens(self.positions),
            None if self.times is None else of_tokens(self.times),
        )


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
