"""Binary cross-entropy over candidates and tasks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from torchrec_gr.modules.global_mean import GlobalMean
from torchrec_gr.modules.step_output import StepOutput


class RankingLoss(nn.Module):
    """Mean binary cross-entropy over the candidates of all ranks, each task counting alike."""

    def __init__(self) -> None:
        super().__init__()
        self.global_mean = GlobalMean()

    def forward(
        self, logits: Tensor, labels: Tensor | None, weights: Tensor | None = None
    ) -> tuple[Tensor, StepOutput]:
        """Compares logits with labels.

        Args:
            logits: [C, tasks], or [C] where there is one task; any float dtype.
            labels: of as many elements, 0 or 1; None to score without labels (the loss is then 0).
            weights: [C]; default: 1 each.

        Returns:
            The loss to call `backward` on, and the step's output with logits of [C, tasks] float32.

        Raises:
            ValueError: labels or weights do not fit the logits.
        """
        if labels is None:
            logits = _with_task_axis(logits).float()
            zero = logits.new_zeros(())
            return zero, StepOutput(zero, zero, logits.detach(), None, weights)
        return self.mean(self.total(logits, labels, weights), logits, labels, weights)

    def total(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss summed over candidates and tasks, 0-dim; arguments as `forward`."""
        logits = _with_task_axis(logits).float()
        return binary_cross_entropy_with_logits(
            logits,
            _labels_like(logits, labels),
            weight=_weights_like(logits, weights).unsqueeze(1),
            reduction="sum",
        )

    def mean(
        self, total: Tensor, logits: Tensor, labels: Tensor, weights: Tensor | None = None
    ) -> tuple[Tensor, StepOutput]:
        """What `forward` gives, where `total` of the batch is known; it may be a sum of pieces'."""
        logits = _with_task_axis(logits).float()
        weights = _weights_like(logits, weights)
        num_units = weights.sum() * logits.shape[1]
        loss = self.global_mean(total, num_units)
        labels = _labels_like(logits, labels)
        return loss, StepOutput(total.detach(), num_units, logits.detach(), labels, weights)


def _weights_like(logits: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return logits.new_ones(logits.shape[0])
    if weights.shape != logits.shape[:1]:
        raise ValueError(
            f"weights: expected one a candidate, shape ({logits.shape[0]},); "
            f"got {tuple(weights.shape)}"
        )
    return weights


def _labels_like(logits: Tensor, labels: Tensor) -> Tensor:
    labels = _with_task_axis(labels).float()
    if labels.shape != logits.shape:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} do not fit labels of shape "
            f"{tuple(labels.shape)}: the model must return one logit a candidate and label"
        )
    return labels


def _with_task_axis(x: Tensor) -> Tensor:
    return x if x.ndim == 2 else x.unsqueeze(1)
