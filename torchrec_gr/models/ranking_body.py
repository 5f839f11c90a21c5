"""What rankers of whole requests share behind their tables: a reader, a loss, and pieces."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from torchrec_gr.models.ranking_inputs import RankingInputs, RankingReader
from torchrec_gr.modules.gradient_accumulation import accumulate
from torchrec_gr.modules.ranking_loss import RankingLoss
from torchrec_gr.modules.step_output import StepOutput
from torchrec_gr.sequences.request_batch import RequestBatch


class RankingBody(nn.Module):
    """Everything of a ranker but its tables; a subclass says how candidates are scored.

    Args:
        reader: of batches.
        micro_batches: pieces in which a batch is scored in training; gradients are those of the
            whole batch.
    """

    def __init__(self, reader: RankingReader, micro_batches: int) -> None:
        super().__init__()
        self.reader = reader
        self.micro_batches = micro_batches
        self.loss = RankingLoss()

    def score(self, inputs: RankingInputs) -> Tensor:
        """Logits of the candidates, [C, tasks]."""
        raise NotImplementedError

    def forward(
        self, embeddings: dict[str, JaggedTensor], batch: RequestBatch
    ) -> tuple[Tensor, StepOutput]:
        """Returns the loss to call `backward` on, and the step's output."""
        inputs = self.reader(embeddings, batch)
        if self.micro_batches == 1 or batch.labels is None or not torch.is_grad_enabled():
            return self.loss(self.score(inputs), batch.labels)
        pieces = inputs.pieces(self.micro_batches)
        labels = batch.labels.split([piece.candidates.shape[0] for piece in pieces])

        def score(piece: tuple[Tensor, ...], number: int) -> tuple[Tensor, Tensor]:
            logits = self.score(RankingInputs(*piece))
            return self.loss.total(logits, labels[number]), logits

        of_reader = set(self.reader.parameters())
        parameters = [p for p in self.parameters() if p not in of_reader]
        total, logits = accumulate(score, pieces, parameters)
        return self.loss.mean(total, torch.cat(logits), batch.labels)
