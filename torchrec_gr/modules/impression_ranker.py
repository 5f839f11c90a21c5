"""Any impression-level TorchRec model, as the training loop wants it."""

from __future__ import annotations

from torch import Tensor, nn

from torchrec_gr.modules.ranking_loss import RankingLoss
from torchrec_gr.modules.step_output import StepOutput
from torchrec_gr.sequences.request_batch import ImpressionBatch


class ImpressionRanker(nn.Module):
    """Trains a `(dense_features, sparse_features) -> logits` model on impressions.

    The model is a `torchrec.models.dlrm.DLRM` or anything that is called like one: it takes a
    [C, F] float32 tensor and a KeyedJaggedTensor of stride C, and returns logits of [C] or
    [C, tasks].

    Args:
        model: the model; its parameters appear under `model.`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.loss = RankingLoss()

    def forward(self, batch: ImpressionBatch) -> tuple[Tensor, StepOutput]:
        """Returns the loss to call `backward` on, and the step's output."""
        logits = self.model(batch.dense_features, batch.sparse_features)
        return self.loss(logits, batch.labels, batch.weights)
