"""A model with an attached PinFM module, as the training loop wants it, with all of its losses."""

from __future__ import annotations

from torch import Tensor, nn

from torchrec_gr.modules.global_mean import GlobalMean
from torchrec_gr.modules.ranking_loss import RankingLoss
from torchrec_gr.modules.step_output import StepOutput
from torchrec_gr.pretrained.attaching.attached import find_attached
from torchrec_gr.pretrained.tuning.pinfm_body import PinFMBody
from torchrec_gr.pretrained.tuning.pinfm_tuning import PinFMTuning
from torchrec_gr.pretrained.tuning.tuning_objective import TuningTap
from torchrec_gr.sequences.request_batch import ImpressionBatch


class TunedRanker(nn.Module):
    """Trains a `(dense_features, sparse_features) -> logits` model and the module attached to it.

    In evaluation, and with every weight of the tuning 0, it is an `ImpressionRanker` bit for bit.
    In training the loss to call `backward` on has the tuning's losses in it; the step's output is
    of the ranker's own loss alone, so that reported losses compare with those of other models.

    Args:
        model: with a module attached by `attach_pretrained(..., tuning=PinFMTuning(...))`, before
            sharding. Its parameters appear under `model.`, those of the module's head under
            `loss.head.`.
        num_tasks: labels of an impression.

    Raises:
        ValueError: nothing is attached to the model, or a module of another kind.
    """

    def __init__(self, model: nn.Module, num_tasks: int = 1) -> None:
        super().__init__()
        _, attached = find_attached(model)
        tuning, body = attached.junction.tuning, attached.pretrained.body
        if tuning is None or not isinstance(body, PinFMBody):
            raise ValueError(
                f"the module attached to this {type(model).__name__} is no PinFM module, so it has "
                "no losses of its own: train the model in an ImpressionRanker"
            )
        body.tap = TuningTap()
        self.model = model
        self.loss = TunedLoss(tuning, body.tap, body.dim, num_tasks)

    def forward(self, batch: ImpressionBatch) -> tuple[Tensor, StepOutput]:
        """Returns the loss to call `backward` on, and the step's output."""
        logits = self.model(batch.dense_features, batch.sparse_features)
        return self.loss(logits, batch.labels, batch.weights)


class TunedLoss(nn.Module):
    """The ranker's loss, and in training those of a head on the module's vectors and the module's.

    A module of its own, without tables, so that TorchRec's train pipelines, which trace a model,
    leave it alone.

    Args:
        tuning: the weights.
        tap: brings the module's vectors and its own loss.
        dim: width of the vectors.
        num_tasks: labels of an impression.

    Source: PinFM (2507.12704), fine-tuning. That the agreement trains the module towards the ranker
        and not the ranker towards the module is our reading.
    """

    def __init__(self, tuning: PinFMTuning, tap: TuningTap, dim: int, num_tasks: int) -> None:
        super().__init__()
        self.ranking_weight = tuning.ranking_weight
        self.agreement_weight = tuning.agreement_weight
        self.head = nn.Linear(dim, num_tasks) if tuning.has_head else None
        self.ranking = RankingLoss()
        self.global_mean = GlobalMean()
        self._tap = tap

    def forward(
        self, logits: Tensor, labels: Tensor | None, weights: Tensor | None
    ) -> tuple[Tensor, StepOutput]:
        """As `RankingLoss`; in training the loss has the tuning's in it."""
        loss, output = self.ranking(logits, labels, weights)
        if not self.training:
            return loss, output
        vectors, auxiliary = self._tap.take()
        if self.head is not None and labels is not None:
            own = self.head(vectors)
            if self.ranking_weight > 0:
                loss = loss + self.ranking_weight * self.ranking(own, labels, weights)[0]
            if self.agreement_weight > 0:
                loss = loss + self.agreement_weight * self._disagreement(own, output)
        return (loss if auxiliary is None else loss + auxiliary), output

    def _disagreement(self, own: Tensor, output: StepOutput) -> Tensor:
        """Mean squared difference of the head's probabilities and the ranker's."""
        assert output.logits is not None
        assert output.weights is not None
        squares = (own.float().sigmoid() - output.logits.sigmoid()).square()
        return self.global_mean((squares * output.weights.unsqueeze(1)).sum(), output.num_units)
