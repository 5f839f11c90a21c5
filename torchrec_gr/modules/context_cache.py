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

    Source: PinFM, 2507.12704, section on DCAT: context and crossing.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    offsets: Tensor
    num_history: Tensor
    summary: Tensor | None = None

    @property
    def num_requests(self) -> int:
        """U."""
        return self.num_history.shape[0]

    @property
    def num_bytes(self) -> int:
        """In memory."""
        tensors = [*self.keys, *self.values, self.offsets, self.num_history]
        tensors += [] if self.summary is None else [self.summary]
        return sum(tensor.nbytes for tensor in tensors)

    def to(self, device: torch.device) -> ContextCache:
        """The cache on a device."""
        return ContextCache(
            tuple(keys.to(device) for keys in self.keys),
            tuple(values.to(device) for values in self.values),
            self.offsets.to(device),
            self.num_history.to(device),
            None if self.summary is None else self.summary.to(device),
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
        return ContextCache(
            tuple(keys.index_select(0, tokens) for keys in self.keys),
            tuple(values.index_select(0, tokens) for values in self.values),
            offsets,
            self.num_history.index_select(0, requests),
            None if self.summary is None else self.summary.index_select(0, requests),
        )

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

        summaries = [cache.summary for cache in caches if cache.summary is not None]
        return ContextCache(
            layers(lambda cache: cache.keys),
            layers(lambda cache: cache.values),
            _offsets(torch.cat([cache.offsets.diff() for cache in caches])),
            torch.cat([cache.num_history for cache in caches]),
            torch.cat(summaries) if summaries else None,
        )


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
