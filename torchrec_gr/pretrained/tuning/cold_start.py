"""What training does for new items: candidates of random ids, and dropout by the item's age."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def replaced_ids(ids: Tensor, num_rows: int | None, share: float) -> Tensor:
    """Replaces some ids by random ones, so that a ranker learns to do without the id.

    Args:
        ids: [C] int64.
        num_rows: a random id is drawn uniformly from 1 .. num_rows - 1; row 0 stands for no item.
            None: from all above 0, where ids are hashed.
        share: probability that an id is replaced; by torch's generator.

    Returns:
        [C] int64.

    Raises:
        ValueError: there is no id to draw.

    Source: PinFM (2507.12704), candidate id randomisation, with a share of 0.1.
    """
    if num_rows is not None and num_rows < 2:
        raise ValueError(
            f"expected at least 2 rows, one of them an item's to draw, got num_rows={num_rows}"
        )
    if share == 0:
        return ids
    replace = torch.rand(ids.shape, device=ids.device) < share
    drawn = torch.randint_like(ids, 1, torch.iinfo(ids.dtype).max if num_rows is None else num_rows)
    return torch.where(replace, drawn, ids)


class AgeDropout(nn.Module):
    """Dropout of each row at a rate that the age of its item decides; in training alone.

    Each element is dropped by itself, and what is kept is scaled up, as in `nn.Dropout`.

    Args:
        bands: (days, rate) by rising days; a rate holds for items younger than its days and not
            younger than those before. Older items, and those of unknown age, have a rate of 0.

    Source: PinFM (2507.12704), item-age dependent dropout: ((7, 0.7), (28, 0.5)).
    """

    def __init__(self, bands: Sequence[tuple[int, float]]) -> None:
        super().__init__()
        self.bands = tuple(bands)

    def forward(self, vectors: Tensor, ages: Tensor) -> Tensor:
        """Drops elements.

        Args:
            vectors: [B, D] float.
            ages: [B] integers, in whole days; below 0: unknown.

        Returns:
            [B, D].
        """
        if not self.training:
            return vectors
        rates = torch.zeros(ages.shape, device=vectors.device)
        for days, rate in reversed(self.bands):
            rates = rates.masked_fill(ages < days, rate)
        rates = rates.masked_fill(ages < 0, 0.0).unsqueeze(1)
        kept = torch.rand(vectors.shape, device=vectors.device) >= rates
        return vectors * (kept / (1 - rates)).to(vectors.dtype)
