"""Work that all processes finish, or fail at, together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from torchrec_gr.training.checkpoint_record import CheckpointError

T = TypeVar("T")


def on_first(action: Callable[[], T], failure: str, kind: type[Exception] = CheckpointError) -> T:
    """Runs an action on the first process; all wait for it and get its result.

    Args:
        failure: what an error of another kind is called.
        kind: of the error that is raised.

    Raises:
        kind: on all processes, if the action failed.
    """
    return on_all(lambda: action() if dist.get_rank() == 0 else None, failure, kind)[0]  # type: ignore[return-value]


def on_all(
    action: Callable[[], T], failure: str, kind: type[Exception] = CheckpointError
) -> list[T]:
    """Runs an action on every process; all get all results, by rank.

    Args:
        failure: what an error of another kind is called.
        kind: of the error that is raised.

    Raises:
        kind: on all processes, if the action failed on any.
    """
    result: T | Exception
    try:
        result = action()
    except kind as error:
        result = error
    except (OSError, TypeError, ValueError) as error:
        result = kind(f"{failure}: {error}")
    results: list[T | Exception] = [result] * dist.get_world_size()
    dist.all_gather_object(results, result)
    for found in results:
        if isinstance(found, kind):
            raise found
    return results  # type: ignore[return-value]
