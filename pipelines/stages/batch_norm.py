"""BatchNorm over several processes, whose rows are not alike: each reads requests of its own."""

from __future__ import annotations

import warnings

import torch
import torch.distributed as dist
from torch import nn

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def synchronised(module: nn.Module, device: torch.device) -> nn.Module:
    """A module whose BatchNorms, if there are several processes, see the rows of all of them.

    Args:
        module: of the user's; not sharded yet.
        device: where it trains. On CUDA the layers become SyncBatchNorm; on the CPU, which has
            none, a warning says what that means.

    Source: Pinterest's notes on deduplication: batches sorted by request cost 1-2% until BatchNorm
        was synchronised.
    """
    names = [name for name, part in module.named_modules() if isinstance(part, _BATCH_NORMS)]
    if dist.get_world_size() == 1 or not names:
        return module
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    if dist.get_rank() == 0:
        warnings.warn(
            f"{names} are BatchNorm layers: on {dist.get_world_size()} processes each normalises "
            "by its own part of a batch, a few requests of similar rows, and running averages are "
            "those of the first process. Train on CUDA, where they are synchronised, or in one "
            "process, or use LayerNorm instead",
            stacklevel=2,
        )
    return module
