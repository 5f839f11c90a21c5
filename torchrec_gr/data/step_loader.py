"""What every loader of batches shares: steps, ranks, and a position that can be sought."""

from __future__ import annotations

import abc
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from torchrec_gr.data.prepared_log import PreparedLog

BatchT = TypeVar("BatchT", covariant=True)


class StepLoader(abc.ABC, Generic[BatchT]):
    """Yields one epoch's batches, the same number on every rank, from any step on.

    The seed and the epoch decide a global order; each step takes the next stretch of it, and each
    rank a part of the step's. So neither the order nor the steps depend on the number
    of ranks.

    Iterating goes on from the position (`epoch`, `step`), which counts the batches handed out; the
    end of an epoch is the start of the next. A train pipeline fetches ahead: whoever saves a
    position says which steps were trained (`state_at`) instead of asking how many were handed out.

    Args:
        seed: of the order; None for the log's own.
        rank, world_size: of this process.
        settings: what a saved position depends on; a position saved under others is refused.

    Raises:
        ValueError: a number outside its range.
    """

    def __init__(
        self,
        *,
        seed: int | None,
        rank: int,
        world_size: int,
        settings: Mapping[str, object],
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0..{world_size - 1} (world_size), got {rank}")
        if seed is not None and seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.step = 0
        self.counts: Counter[str] = Counter()
        settings = {"seed": seed, **settings}
        self._settings = {name: str(value) for name, value in settings.items()}

    @property
    @abc.abstractmethod
    def num_steps(self) -> int:
        """Steps of one epoch, the same on every rank and in every epoch."""

    def __iter__(self) -> Iterator[BatchT]:
        epoch, first_step = self.epoch, self.step
        for step, batch in enumerate(self._batches(epoch, first_step), first_step):
            self.seek(epoch, step + 1)
            self.counts["steps"] += 1
            yield batch
        self.seek(epoch + 1, 0)

    @abc.abstractmethod
    def _batches(self, epoch: int, first_step: int) -> Iterator[BatchT]:
        """This rank's batches of steps first_step .. num_steps - 1."""

    def seek(self, epoch: int, step: int) -> None:
        """The next iteration begins with this step of this epoch."""
        if epoch < 0 or not 0 <= step <= self.num_steps:
            raise ValueError(
                f"expected epoch >= 0 and step in 0..{self.num_steps}, got {epoch} and {step}"
            )
        self.epoch, self.step = epoch, step

    def state_at(self, epoch: int, step: int) -> dict[str, int | str]:
        """The state of a run that has trained `step` steps of `epoch`: numbers and words only."""
        return {"epoch": epoch, "step": step, **self._settings}

    def state_dict(self) -> dict[str, int | str]:
        """The state of a run that has trained every batch handed out so far."""
        return self.state_at(self.epoch, self.step)

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Goes on where `state` was taken, at any world size.

        Raises:
            ValueError: it was taken from another log or with other settings.
        """
        for name, ours in self._settings.items():
            if state.get(name) != ours:
                raise ValueError(
                    f"the saved reader position has {name}={state.get(name)!r}, this run has "
                    f"{ours!r}: go on with the same log and settings, or start a new run"
                )
        self.seek(int(state["epoch"]), int(state["step"]))


def fingerprint(log: PreparedLog) -> str:
    """A short word for what a position in the log depends on: schema, tables, counts."""
    parts = [
        log.schema.to_dict(),
        log.table_rows,
        [[block.num_rows, *block.counts] for block in log.blocks],
        0 if log.events is None else log.events.num_events,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
