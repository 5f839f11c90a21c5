"""The processes that share a model: they go on together, or fail together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


class Processes:
    """All processes of the group where they share a model; else this one alone.

    Args:
        shared: whether they do.
    """

    def __init__(self, shared: bool) -> None:
        self._shared = shared and dist.is_initialized() and dist.get_world_size() > 1
        self.rank = dist.get_rank() if self._shared else 0
        self.num = dist.get_world_size() if self._shared else 1

    def together(self, action: Callable[[], T]) -> T:
        """Runs an action on every process, and gives this one's result once all are done.

        Raises:
            Exception: what this process's action raised.
            ValueError: of the same words, where another process's did.
        """
        failure: Exception | None = None
        try:
            result = action()
        except Exception as error:
            failure = error
        words = self.gather(None if failure is None else f"{failure}")
        if failure is not None:
            raise failure
        for word in words:
            if word is not None:
                raise ValueError(word)
        return result

    def gather(self, value: T) -> list[T]:
        """Every process's value, in their order; all must take part."""
        values = [value] * self.num
        if self._shared:
            dist.all_gather_object(values, value)
        return values
