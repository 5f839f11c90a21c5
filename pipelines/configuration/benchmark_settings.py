"""The settings that only a benchmark reads: budget, search, and what is scored beside models."""

from __future__ import annotations

import dataclasses
from typing import Literal

Reference = Literal["item_mean", "user_mean", "user_item_mean", "gbdt"]
"""What is scored without a network, beside popularity, which every comparison has."""

BudgetKind = Literal["seconds", "flops", "parameters"]


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every model of a benchmark gets alike.

    Args:
        kind: "seconds" and "flops" end training, pretraining counted; "parameters", of tables and
            dense parts together, decides how wide a model is.
        value: how much.
        pretraining_share: of seconds or FLOPs, what pretraining may take at most.

    Raises:
        ValueError: a value not above 0, or a share that leaves nothing to one of the two.
    """

    kind: BudgetKind
    value: float
    pretraining_share: float = 0.5

    def __post_init__(self) -> None:
        if not self.value > 0:
            raise ValueError(f"a budget must be above 0, got {self.kind} {self.value}")
        if not 0 < self.pretraining_share < 1:
            raise ValueError(
                f"budget.pretraining_share must be between 0 and 1, got {self.pretraining_share}"
            )

    def __str__(self) -> str:
        return f"{self.value:,.15g} {self.kind}"


@dataclasses.dataclass(frozen=True)
class Search:
    """How a benchmark tunes every variant: the same few trials for all, judged on validation rows.

    Args:
        trials: pairs of factors, of the tables' and of the dense parts' learning rate (of trees:
            of the learning rate and of the number of leaves). One trial is no search.
        epochs: that a trial trains for, maybe a part of one: as many as its runs need to peak.
            Trees grow on that part of the rows.
        seeds: whose mean validation AUC judges a trial; more where validation rows are few.

    Raises:
        ValueError: no trial, a factor not above 0, epochs not above 0, or no seed.
    """

    trials: tuple[tuple[float, float], ...] = (
        (1.0, 1.0),
        (3.0, 1.0),
        (0.3, 1.0),
        (1.0, 3.0),
        (1.0, 0.3),
    )
    epochs: float = 0.4
    seeds: int = 1

    def __post_init__(self) -> None:
        if not self.trials or not all(factor > 0 for trial in self.trials for factor in trial):
            raise ValueError(f"search.trials must be pairs of factors above 0, got {self.trials}")
        if not self.epochs > 0:
            raise ValueError(f"search.epochs must be above 0, got {self.epochs}")
        if self.seeds < 1:
            raise ValueError(f"search.seeds must be at least 1, got {self.seeds}")
