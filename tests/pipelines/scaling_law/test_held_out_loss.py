"""The exact loss of held-out items against a softmax written out user by user."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipelines.scaling_law.held_out_loss import held_out_losses
from torchrec_gr.training.process_group import process_group

TEMPERATURE = 0.2


class _Model(nn.Module):
    """Gives unit vectors of whom a batch names."""

    def __init__(self, users: Tensor, items: Tensor) -> None:
        super().__init__()
        self.users, self.items = users, items

    def forward(self, batch: Any) -> tuple[None, SimpleNamespace]:
        assert not self.training
        assert not torch.is_grad_enabled()
        users, items = self.users[batch.users], self.items[batch.items]
        return None, SimpleNamespace(users=users, items=items)


class _Loader:
    """Users two at a time, the catalogue three at a time."""

    def __init__(self, targets: Tensor, num_items: int) -> None:
        self.targets, self.num_items = targets, num_items

    def catalogue(self) -> Iterator[Any]:
        for first in range(0, self.num_items, 3):
            yield _batch([], range(first, min(first + 3, self.num_items)))

    def __iter__(self) -> Iterator[Any]:
        for first in range(0, len(self.targets), 2):
            users = range(first, min(first + 2, len(self.targets)))
            # A request without events where there is no user to ask for.
            yield SimpleNamespace(batch=_batch([*users, 0], [0]), targets=self.targets[first:][:2])


def _batch(users: Any, items: Any) -> SimpleNamespace:
    batch = SimpleNamespace(users=list(users), items=list(items))
    batch.to = lambda device: batch
    return batch


@pytest.mark.parametrize("num_items", [1, 3, 7])
def test_equals_the_softmax_written_out(num_items: int) -> None:
    torch.manual_seed(0)
    users = normalize(torch.randn(5, 4), dim=1)
    items = normalize(torch.randn(num_items, 4), dim=1)
    targets = torch.tensor([num_items, 1, 0, 1, (num_items + 1) // 2])
    model = _Model(users, items).train()
    with process_group("cpu") as device:
        loader: Any = _Loader(targets, num_items)
        losses = held_out_losses(model, loader, TEMPERATURE, device).tolist()
    assert model.training
    for user, target in enumerate(targets.tolist()):
        if target == 0:
            assert math.isnan(losses[user])
            continue
        logits = [float(users[user] @ item) / TEMPERATURE for item in items]
        total = math.log(sum(math.exp(logit) for logit in logits))
        assert losses[user] == pytest.approx(total - logits[target - 1], abs=1e-5)
