"""LUM's third step: its cached answers as features of an impression-level ranker."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from torchrec_gr.modules.ranking_loss import RankingLoss
from torchrec_gr.modules.step_output import StepOutput
from torchrec_gr.sequences.request_batch import ImpressionBatch


class LUMFeatures(nn.Module):
    """What a user's answers say of an impression: their similarities to its item, and a summary.

    The answers and the item's vectors are frozen and in no checkpoint; the summary is learned.

    Args:
        answers: [E, n, D] float32 unit vectors; entry 0 is that of an empty history.
        items: [V, D] float32 unit vectors, by row of the item's table.
        entries: [R] int64, by row of the log the entry of its user as known then.
        item: key of the item in a batch.
        summary_dim: numbers that the n answers are projected to.

    Raises:
        ValueError: tensors that do not fit each other.

    Source: LUM, 2502.08309, step 3: the outputs and their similarity to the target item.
    """

    answers: Tensor
    items: Tensor
    entries: Tensor

    def __init__(
        self, answers: Tensor, items: Tensor, entries: Tensor, item: str, summary_dim: int
    ) -> None:
        super().__init__()
        if answers.ndim != 3 or items.ndim != 2 or answers.shape[2] != items.shape[1]:
            raise ValueError(
                "expected answers [E, n, D] and items [V, D] of one width, got "
                f"{list(answers.shape)} and {list(items.shape)}"
            )
        if entries.numel() and not 0 <= int(entries.min()) <= int(entries.max()) < len(answers):
            raise ValueError(
                f"entries: expected places among the {len(answers)} answers, got "
                f"{int(entries.min())} to {int(entries.max())}"
            )
        self.item = item
        for name, frozen in (("answers", answers), ("items", items), ("entries", entries)):
            self.register_buffer(name, frozen, persistent=False)
        self.summary = nn.Linear(answers.shape[1] * answers.shape[2], summary_dim)

    @property
    def num_features(self) -> int:
        """Numbers an impression: n similarities and the summary."""
        return self.answers.shape[1] + self.summary.out_features

    def forward(self, batch: ImpressionBatch) -> Tensor:
        """[C, num_features] float32; a row that only fills the batch up counts as without history.

        Source rows of the batch are those of the log that `entries` was made for.
        """
        rows = batch.source_rows
        entry = torch.where(rows >= 0, self.entries[rows.clamp(min=0)], 0)
        answers = self.answers[entry]
        ids = batch.sparse_features[self.item].values()
        item = self.items[pad(ids, (0, rows.shape[0] - ids.shape[0]))]
        similarities = (answers @ item.unsqueeze(2)).squeeze(2)
        return torch.cat([similarities, self.summary(answers.flatten(1))], dim=1)


class LUMRanker(nn.Module):
    """An impression-level model whose dense features are widened by LUM's.

    Args:
        model: of (dense_features [C, F + features.num_features], sparse_features), such as
            `build_dlrm` gives it; its parameters appear under `model.`.
        features: what it is widened by.
    """

    def __init__(self, model: nn.Module, features: LUMFeatures) -> None:
        super().__init__()
        self.model = model
        self.features = features
        self.loss = RankingLoss()

    def forward(self, batch: ImpressionBatch) -> tuple[Tensor, StepOutput]:
        """Returns the loss to call `backward` on, and the step's output."""
        dense = torch.cat([batch.dense_features, self.features(batch)], dim=1)
        return self.loss(self.model(dense, batch.sparse_features), batch.labels, batch.weights)
