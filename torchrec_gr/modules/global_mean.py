"""The mean over the units of all ranks, as a loss whose gradient is right after averaging."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


class GlobalMean(nn.Module):
    """Divides a rank's sum by the mean count of a rank, so that ranks may hold different counts.

    DistributedDataParallel and TorchRec average gradients over the ranks. The mean over the ranks
    of `sum * world_size / global count` is the global sum over the global count, so a batch gives
    the same gradient however it is cut over ranks. A module of its own so that TorchRec's train
    pipelines, which trace a model, leave the collective alone.
    """

    def forward(self, total: Tensor, num_units: Tensor) -> Tensor:
        """Returns the loss to call `backward` on.

        Args:
            total: 0-dim, this rank's sum, with its gradient.
            num_units: 0-dim, this rank's count, without one; may be 0.

        Returns:
            0-dim, dtype of `total`.
        """
        world_size = dist.get_world_size() if dist.is_initialized() else 1
        num_units = num_units.detach().to(total.dtype, copy=True)
        if world_size > 1:
            dist.all_reduce(num_units)
        # Without any unit the sum is 0, and dividing it by 1 keeps its gradient finite.
        return total * (world_size / torch.where(num_units > 0, num_units, 1.0))
