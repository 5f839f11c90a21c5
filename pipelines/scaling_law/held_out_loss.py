"""The log loss of held-out events under the softmax over the whole catalogue, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchrec_gr.data.held_out_loader import HeldOutLoader
from torchrec_gr.modules.cosine_softmax import sampled_softmax
from torchrec_gr.training.process_group import all_gather_rows


def held_out_losses(
    model: nn.Module, loader: HeldOutLoader, temperature: float, device: torch.device
) -> np.ndarray[Any, Any]:
    """The loss of each user's held-out item among all items, a batch of users at a time.

    Nothing is sampled, and items that the user has seen are not left out.

    Args:
        model: gives a `NextItemOutput` in eval mode; sharded or not; left in the mode it was in.
        loader: of the users and the catalogue.
        temperature: of the softmax.
        device: of the model.

    Returns:
        [N] float32, users in the log's order; NaN for an item out of the vocabulary.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            items = torch.cat([model(batch.to(device))[1].items for batch in loader.catalogue()])
            losses = []
            for held in loader:
                users = model(held.batch.to(device))[1].users[: len(held.targets)]
                losses.append(_losses(users, held.targets.to(device), items, temperature))
    finally:
        model.train(was_training)
    return all_gather_rows(torch.cat(losses)).cpu().numpy()


def _losses(users: Tensor, targets: Tensor, items: Tensor, temperature: float) -> Tensor:
    ids = torch.arange(1, items.shape[0] + 1, device=items.device)
    known = targets > 0
    positives = items[(targets - 1).clamp(min=0)]
    losses = sampled_softmax(users, positives, targets, items, ids, temperature)
    return losses.masked_fill(~known, torch.nan)
