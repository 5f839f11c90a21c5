"""M-FALCON: many candidates of a request, a few at a time over keys and values kept of its history.

Source: HSTU, 2402.17152, its section on inference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from torchrec_gr.modules.context_cache import ContextCache
from torchrec_gr.modules.sequence_trunk import SequenceTrunk, check_candidates
from torchrec_gr.sequences.candidate_layout import offsets_of


class MicroBatch(NamedTuple):
    """Some candidates, one behind the other.

    Args:
        candidates: which of the C.
        requests: those that the candidates are of, of the U.
        num_candidates: how many candidates of each of those requests.
    """

    candidates: slice
    requests: slice
    num_candidates: Tensor


def micro_batches(num_candidates: Tensor, micro_batch: int) -> Iterator[MicroBatch]:
    """Splits the candidates of U requests; all parts but the last have the same number.

    Args:
        num_candidates: [U] integers, of each request; may be 0.
        micro_batch: candidates of a part.

    Raises:
        ValueError: micro_batch is below 1.
    """
    if micro_batch < 1:
        raise ValueError(f"micro_batch: expected at least 1 candidate, got {micro_batch}")
    offsets = offsets_of(num_candidates)
    num_all = int(offsets[-1])
    for begin in range(0, num_all, micro_batch):
        end = min(begin + micro_batch, num_all)
        first = int(torch.searchsorted(offsets, begin, right=True)) - 1
        last = int(torch.searchsorted(offsets, end))
        inside = offsets[first : last + 1].clamp(begin, end).diff()
        yield MicroBatch(slice(begin, end), slice(first, last), inside)


def cross_in_micro_batches(
    trunk: SequenceTrunk,
    x: Tensor,
    context: ContextCache,
    num_candidates: Tensor,
    *,
    micro_batch: int,
    num_visible: Tensor | None = None,
    positions: Tensor | None = None,
    times: Tensor | None = None,
) -> Tensor:
    """Candidates over contexts that were encoded before: what one pass for each would give.

    No pass holds more than `micro_batch` candidates and the contexts of their requests. A context
    serves all passes, and may be kept for the next request of its user: `trunk.context` gives it.

    Args:
        trunk: the layers.
        x: [C, D], request after request.
        context: of U requests, from this trunk with these weights.
        num_candidates: [U] integers, of each request; may be 0.
        micro_batch: candidates of a pass.
        num_visible, positions, times: [C], as `SequenceTrunk.cross` takes them.

    Returns:
        [C, D].

    Raises:
        ValueError: micro_batch is below 1, or as `SequenceTrunk.cross`.
    """
    check_candidates(x, context, num_candidates)
    of_each = {"num_visible": num_visible, "positions": positions, "times": times}
    given = {name: values for name, values in of_each.items() if values is not None}
    hidden = [
        trunk.cross(
            x[part.candidates],
            context.between(part.requests.start, part.requests.stop),
            part.num_candidates,
            **{name: values[part.candidates] for name, values in given.items()},
        )
        for part in micro_batches(num_candidates, micro_batch)
    ]
    return torch.cat([x[:0], *hidden])
