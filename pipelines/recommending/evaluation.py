"""How well a next-item recommender finds the events that were held out, among all items."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchrec_gr.data.held_out_loader import HeldOutLoader
from torchrec_gr.metrics import hit_rate, ndcg
from torchrec_gr.retrieval.catalogue import Catalogue
from torchrec_gr.training.process_group import all_gather_rows

CUTOFFS = (10, 50, 200)


@dataclasses.dataclass(frozen=True)
class HeldOutRanks:
    """Where each held-out item stands among all items that its user has not seen.

    Args:
        ranks: [N] int64, 1 is best, users in the log's order; num_catalogue + 1 for an item out of
            the vocabulary.
        num_catalogue: items.
    """

    ranks: np.ndarray[Any, Any]
    num_catalogue: int

    def metrics(self) -> dict[str, float]:
        """HR and NDCG at each cutoff: "hr@10", "ndcg@10", ..."""
        ranks = torch.from_numpy(self.ranks)
        measured = {}
        for k in CUTOFFS:
            measured[f"hr@{k}"] = hit_rate(ranks, k)
            measured[f"ndcg@{k}"] = ndcg(ranks, k)
        return measured


def rank_held_out(
    model: nn.Module, loader: HeldOutLoader, device: torch.device, *, bf16: bool = False
) -> HeldOutRanks:
    """Ranks every user's held-out item, exactly, over any number of processes.

    Args:
        model: gives a `NextItemOutput` in eval mode; sharded or not; left in the mode it was in.
        loader: of the users and the catalogue.
        device: of the model.
        bf16: run the dense part under bfloat16 autocast.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            items = [_output(model, batch, device, bf16).items for batch in loader.catalogue()]
            ids = torch.arange(1, loader.num_catalogue + 1, device=device)
            catalogue = Catalogue(torch.cat(items), ids)
            ranks = [_ranks(model, held, catalogue, device, bf16) for held in loader]
    finally:
        model.train(was_training)
    return HeldOutRanks(all_gather_rows(torch.cat(ranks)).cpu().numpy(), loader.num_catalogue)


def _ranks(
    model: nn.Module, held: Any, catalogue: Catalogue, device: torch.device, bf16: bool
) -> Tensor:
    users = _output(model, held.batch, device, bf16).users
    return catalogue.ranks(
        users[: len(held.targets)],  # a rank without users reads one without events
        held.targets.to(device),
        held.seen_values.to(device),
        held.seen_offsets.to(device),
    )


def _output(model: nn.Module, batch: Any, device: torch.device, bf16: bool) -> Any:
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        return model(batch.to(device))[1]
