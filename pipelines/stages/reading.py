"""What a ranker reads of a log: so many rows a step, or users' windows of so many tokens."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import torch.distributed as dist
from torchrec.distributed.model_parallel import DistributedModelParallel

from pipelines.configuration.settings import WindowStage
from torchrec_gr.data.known_before import HistoryAsOf
from torchrec_gr.data.loader import RequestLoader, View
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.step_loader import StepLoader
from torchrec_gr.data.window_loader import WindowLoader
from torchrec_gr.training.sharding import needs_equal_batches

_SCORED_AT_ONCE = 1024
"""Rows of a batch that is scored, at least."""


class Reading(Protocol):
    """How a ranker reads a split of a log."""

    def to_train(
        self, log: PreparedLog, split: str, history_as_of: HistoryAsOf, seed: int
    ) -> StepLoader[Any]:
        """Batches in an order that the seed decides, for this process."""

    def to_score(self, log: PreparedLog, split: str, history_as_of: HistoryAsOf) -> StepLoader[Any]:
        """Batches in the log's order, every row whole and once, for this process."""


@dataclasses.dataclass(frozen=True)
class RowReading:
    """Rows as requests or as impressions.

    Args:
        view: which.
        batch_size: rows a step, over all processes.
    """

    view: View
    batch_size: int

    def to_train(
        self, log: PreparedLog, split: str, history_as_of: HistoryAsOf, seed: int
    ) -> RequestLoader:
        """As `Reading` says."""
        return self._loader(log, split, history_as_of, self.batch_size, seed)

    def to_score(self, log: PreparedLog, split: str, history_as_of: HistoryAsOf) -> RequestLoader:
        """As `Reading` says."""
        batch_size = max(self.batch_size, _SCORED_AT_ONCE)
        return self._loader(log, split, history_as_of, batch_size, None)

    def _loader(
        self,
        log: PreparedLog,
        split: str,
        history_as_of: HistoryAsOf,
        batch_size: int,
        seed: int | None,
    ) -> RequestLoader:
        return RequestLoader(
            log,
            split,
            batch_size=batch_size,
            view=self.view,
            history_as_of=history_as_of,
            seed=seed,
            rank=dist.get_rank(),
            world_size=dist.get_world_size(),
        )


@dataclasses.dataclass(frozen=True)
class WindowReading:
    """A user's exposures in a window of time as one sequence, long histories whole when scored.

    Args:
        stage: how windows are made, and how many tokens a step has.
    """

    stage: WindowStage

    def to_train(
        self, log: PreparedLog, split: str, history_as_of: HistoryAsOf, seed: int
    ) -> WindowLoader:
        """As `Reading` says."""
        return self._loader(log, split, history_as_of, seed, self.stage.stochastic_length)

    def to_score(self, log: PreparedLog, split: str, history_as_of: HistoryAsOf) -> WindowLoader:
        """As `Reading` says."""
        return self._loader(log, split, history_as_of, None, None)

    def _loader(
        self,
        log: PreparedLog,
        split: str,
        history_as_of: HistoryAsOf,
        seed: int | None,
        stochastic_length: float | None,
    ) -> WindowLoader:
        return WindowLoader(
            log,
            split,
            batch_tokens=self.stage.batch_tokens,
            window_hours=self.stage.window_hours,
            max_candidates=self.stage.max_candidates,
            real_time_hours=self.stage.real_time_hours,
            stochastic_length=stochastic_length,
            history_as_of=history_as_of,
            seed=seed,
            rank=dist.get_rank(),
            world_size=dist.get_world_size(),
        )


def pad_for(model: DistributedModelParallel, loader: StepLoader[Any]) -> None:
    """Has a loader of impressions fill batches up where the model's tables ask for equal ones.

    Args:
        model: as `shard` gives it.
        loader: one that a `Reading` made.
    """
    if isinstance(loader, RequestLoader) and loader.view == "impressions":
        loader.pad = needs_equal_batches(model)
