"""The loss of predicting the next item: softmax over it and sampled negatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchrec_gr.modules.cosine_softmax import sampled_softmax, unit
from torchrec_gr.ops.indexed_products import indexed_products

COLLISION_LOGIT = -5e4


class NextItemLoss(nn.Module):
    """Cross-entropy of each next item among negatives, by cosine similarity over a temperature.

    A negative that is a position's own positive does not count there.

    Args:
        temperature: divides the similarities.
        num_negatives: drawn for each position out of the rows, uniformly, with replacement, from
            torch's random generator; None: every row is a negative of every position.

    Raises:
        ValueError: a temperature that is not above 0, or fewer than one negative.

    Source: HSTU, 2402.17152, the configuration behind its public table.
    """

    def __init__(self, temperature: float, num_negatives: int | None) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature: expected above 0, got {temperature}")
        if num_negatives is not None and num_negatives < 1:
            raise ValueError(
                f"num_negatives: expected at least 1, or None to share all rows, got "
                f"{num_negatives}"
            )
        self.temperature = temperature
        self.num_negatives = num_negatives

    def forward(
        self,
        hidden: Tensor,
        positives: Tensor,
        positive_ids: Tensor,
        rows: Tensor,
        row_ids: Tensor,
    ) -> Tensor:
        """The loss of each position, [P] float32, under autocast too.

        Args:
            hidden: [P, D] float, what each position predicts.
            positives: [P, D] float, the table rows of the right answers.
            positive_ids: [P] integers.
            rows: [N, D] float, the table rows that negatives are drawn from.
            row_ids: [N] integers; an id may be there more than once.
        """
        if self.num_negatives is None:
            return sampled_softmax(hidden, positives, positive_ids, rows, row_ids, self.temperature)
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = unit(hidden) / self.temperature
            shape = (hidden.shape[0], self.num_negatives)
            drawn = torch.randint(rows.shape[0], shape, device=rows.device)
            logits = indexed_products(hidden, unit(rows), drawn)
            collides = row_ids[drawn] == positive_ids.unsqueeze(1)
            logits = logits.masked_fill(collides, COLLISION_LOGIT)
            of_positives = (hidden * unit(positives)).sum(dim=1)
            return torch.logaddexp(of_positives, logits.logsumexp(dim=1)) - of_positives
