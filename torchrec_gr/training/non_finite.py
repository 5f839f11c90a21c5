"""Finds weights that are infinite or not a number."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from torchrec_gr.embeddings.dynamic_table import dynamic_tables


def first_non_finite(model: DistributedModelParallel) -> str | None:
    """The first parameter or row, on any process, that holds an infinite value or NaN."""
    bad = (name for name, weight in _weights(model) if not torch.isfinite(weight.detach()).all())
    names: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(names, next(bad, None))
    return next((name for name in names if name is not None), None)


def _weights(model: DistributedModelParallel) -> Iterator[tuple[str, Tensor]]:
    """All that is trained on this process; of a dynamic table, one chunk of rows at a time."""
    yield from model.named_parameters()
    for name, table in dynamic_tables(model).items():
        for rows in table.live_chunks():
            yield f"{name}.weight", rows.weight
