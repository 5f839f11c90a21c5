"""What a step of a next-item recommender gives beside its loss."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class NextItemOutput(NamedTuple):
    """What a step of a next-item recommender gives beside its loss; nothing carries a gradient.

    Args:
        loss_sum, num_units: as in `StepOutput`; a unit is a predicted position.
        users: [U, D] float32 unit vectors, each at its history's last event; zeros where there is
            none. None in training.
        items: [N, D] float32 unit vectors of the batch's negatives. None in training.
    """

    loss_sum: Tensor
    num_units: Tensor
    users: Tensor | None = None
    items: Tensor | None = None
