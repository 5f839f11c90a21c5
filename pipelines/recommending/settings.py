"""The settings of next-item training, with their defaults: those of HSTU's public table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from torchrec_gr.models.hstu_config import HSTUConfig, PublishedData
from torchrec_gr.training.optimizer import DenseOptimizer, TableOptimizer
from torchrec_gr.training.sharding import Sharding

HoldOut = Literal["test", "validation"]

DATA_OPTIONS: dict[str, dict[str, Any]] = {"movielens": {"split": "last"}}
"""Of the data sets whose own split is not that of next-item tables."""


@dataclasses.dataclass(frozen=True)
class PinRecSettings:
    """What PinRec is told beside its sizes.

    Args:
        action: the history feature that says what the user did with the item.
        desired: the raw value of it that held-out items are retrieved for.
        window: events ahead of a position, any one of which it may predict.
    """

    action: str = "history_half_stars"
    desired: Any = 10
    window: int = 1


@dataclasses.dataclass(frozen=True)
class NextItemSettings:
    """Everything that next-item training can be told.

    Args:
        data, data_dir, data_options: which log, where its files are, options of its loader.
        model: "sasrec", "hstu" or "hstu-large" of the public table; or "pinrec", whose layers are
            hstu's there, and whose positions share all negatives of a step.
        published: the data set whose published configuration is taken.
        sizes: instead of the published configuration; under any name of `model`.
        pinrec: of that model.
        held_out: which events are predicted. "test" trains on all events before, validation's
            among them, as the public table does; "validation" on the training split alone.
        epochs: passes over the users' sequences.
        evaluate_every: epochs between evaluations, beside that of the last epoch.
        batch_size: sequences a step, over all processes.
        pool: negatives that a step's positions draw from, or share: drawn anew for each step;
            None: every item.
        stochastic_length: HSTU's alpha, in training; None: no history is cut.
        tables, dense: the optimizers.
        warmup_steps: of the schedule.
        sharding: of the table; None is the default.
        precision: "bf16" runs the dense part under autocast.
        device: "cpu" or "cuda"; None is CUDA where there is a GPU.
        checkpoint_steps: steps between checkpoints; there is one at each epoch's end anyway.
    """

    data: str = "movielens"
    data_dir: Path | None = None
    data_options: Mapping[str, Any] = field(default_factory=dict)
    model: str = "hstu"
    published: PublishedData = "ml-1m"
    sizes: HSTUConfig | None = None
    pinrec: PinRecSettings = field(default_factory=PinRecSettings)
    held_out: HoldOut = "test"
    epochs: int = 101
    evaluate_every: int = 10
    batch_size: int = 128
    pool: int | None = None
    stochastic_length: float | None = None
    tables: TableOptimizer = TableOptimizer("adamw", lr=1e-3)
    dense: DenseOptimizer = DenseOptimizer(lr=1e-3, weight_decay=0.0, clip_norm=None)
    warmup_steps: int = 0
    sharding: Sharding | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["cpu", "cuda"] | None = None
    checkpoint_steps: int = 1000
