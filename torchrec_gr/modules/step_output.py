"""What a training step of any model tells the loop beside its loss."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class StepOutput(NamedTuple):
    """The second value that every model's `forward` returns; nothing in it carries a gradient.

    Args:
        loss_sum: 0-dim float32, the loss summed over this rank's units.
        num_units: 0-dim float32, the units summed over: the candidates' weights times the tasks in
            ranking, predicted positions in generative pretraining.
        logits, labels: [C, tasks] float32, None where nothing is ranked.
        weights: [C] float32, 0 for a row that only fills the batch up; None where all count alike.
    """

    loss_sum: Tensor
    num_units: Tensor
    logits: Tensor | None = None
    labels: Tensor | None = None
    weights: Tensor | None = None
