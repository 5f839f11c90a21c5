"""Dynamic tables in plain Python: a dict of rows, one id after the other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchrec_gr.embeddings.dynamic_config import DynamicEmbeddingConfig


@dataclasses.dataclass
class Row:
    """What an id has."""

    count: int
    last: int
    weight: Tensor
    state: Tensor


class PlainTable:
    """One table on one process.

    Args:
        config: of the table.
        initial: an id's fresh row.
        optimizer: "sgd", "adagrad" or "rowwise_adagrad".
        lr: learning rate.
    """

    def __init__(
        self,
        config: DynamicEmbeddingConfig,
        initial: Callable[[int], Tensor],
        optimizer: str = "rowwise_adagrad",
        lr: float = 0.1,
    ) -> None:
        self.config, self.initial, self.optimizer, self.lr = config, initial, optimizer, lr
        self.rows: dict[int, Row] = {}
        self.waiting: dict[int, tuple[int, int]] = {}
        self.num_places = 0
        self.step = 0

    def read(self, ids: list[int]) -> Tensor:
        """[ids, dim] the rows of ids, zeros where there is none; nothing changes."""
        zeros = torch.zeros(self.config.embedding_dim)
        found = [self.rows[i].weight if i in self.rows else zeros for i in ids]
        return torch.stack(found) if found else zeros.new_zeros(0, len(zeros))

    def see(self, ids: list[int]) -> None:
        """Counts the ids of a training batch and gives rows to those that get one."""
        self.step += 1
        counts = {i: ids.count(i) for i in dict.fromkeys(ids)}
        known = [i for i in counts if i in self.rows]
        new = self._admitted({i: n for i, n in counts.items() if i not in self.rows})
        budget = self.config.max_rows
        if budget is not None and len(known) + len(new) > budget:
            raise ValueError("over budget")
        for i in known:
            self.rows[i].count += counts[i]
            self.rows[i].last = self.step
        self._make_room(len(new))
        for i, count in new.items():
            weight = self.initial(i)
            state = {"sgd": 0, "adagrad": len(weight), "rowwise_adagrad": 1}[self.optimizer]
            self.rows[i] = Row(count, self.step, weight, torch.zeros(state))
        while self.num_places < len(self.rows):
            size = min(max(self.num_places, 1024), 65536)
            self.num_places += min(size, (budget or math.inf) - self.num_places)

    def train(self, ids: list[int], grads: Tensor) -> None:
        """One optimizer step on the sum of each id's gradients [ids, dim]."""
        for i in dict.fromkeys(ids):
            if i not in self.rows:
                continue
            row = self.rows[i]
            grad = sum(g for j, g in zip(ids, grads, strict=True) if i == j)
            if self.optimizer == "sgd":
                row.weight = row.weight - self.lr * grad
                continue
            square = grad**2
            row.state = row.state + (square if self.optimizer == "adagrad" else square.mean())
            row.weight = row.weight - self.lr * grad / (row.state.sqrt() + 1e-8)

    def _admitted(self, counts: dict[int, int]) -> dict[int, int]:
        """The ids that get rows, each with how often it was seen in all."""
        if self.config.admit_after == 1:
            return counts
        budget = self.config.max_rows
        for i in counts:
            if i in self.waiting:
                self.waiting[i] = (self.waiting[i][0], self.step)
        unknown = [i for i in counts if i not in self.waiting]
        if budget is not None:
            excess = len(self.waiting) + len(unknown) - budget
            if excess > 0:
                old = sorted(
                    (last, count, i)
                    for i, (count, last) in self.waiting.items()
                    if last < self.step
                )
                for _, _, i in old[: excess + budget // 16]:
                    del self.waiting[i]
            unknown = unknown[: budget - len(self.waiting)]
        for i in unknown:
            self.waiting[i] = (0, self.step)
        admitted = {}
        for i, count in counts.items():
            total = count + self.waiting.get(i, (0, 0))[0]
            if total >= self.config.admit_after:
                admitted[i] = total
                self.waiting.pop(i, None)
            elif i in self.waiting:
                self.waiting[i] = (total, self.step)
        return admitted

    def _make_room(self, needed: int) -> None:
        config, budget, num = self.config, self.config.max_rows, 0
        if config.max_age is not None and needed > self.num_places - len(self.rows):
            num = sum(row.last < self.step - config.max_age for row in self.rows.values())
        if budget is not None and len(self.rows) + needed - budget > num:
            num = len(self.rows) + needed - budget + budget // 16
        by_count = config.eviction == "lfu"
        old = sorted(
            ((row.count, row.last) if by_count else (row.last, row.count), i)
            for i, row in self.rows.items()
            if row.last < self.step
        )
        for _, i in old[:num]:
            del self.rows[i]
