"""Work that all processes finish, or fail at, together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from torchrec_gr.training.checkpoint_record import CheckpointError

T = TypeVar("T")


def on_first(action: Callable[[], T], failure: str) -> T:
    """Runs an action on the first process; all wait for it and get its result.

    Args:
        failure: what an error that is no CheckpointError is called.

    Raises:
        CheckpointError: on all processes, if the action failed.
    """
    return on_all(lambda: action() if dist.get_rank() == 0 else None, failure)[0]  # type: ignore[return-value]


def on_all(action: Callable[[], T], failure: str) -> list[T]:
    """Runs an action on every process; all get all results, by rank.

    Raises:
        CheckpointError: on all processes, if the action failed on any.
    """
    result: T | CheckpointError
    try:
        result = action()
    except (OSError, TypeError, ValueError) as error:
        result = CheckpointError(f"{failure}: {error}")
    except CheckpointError as error:
        result = error
    results: list[T | CheckpointError] = [result] * dist.get_world_size()
    dist.all_gather_object(results, result)
    for found in results:
        if isinstance(found, CheckpointError):
            raise found
    return results  # type: ignore[return-value]
