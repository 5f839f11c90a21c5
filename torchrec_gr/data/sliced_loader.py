"""Batches of a fixed number of rows or sequences."""

from __future__ import annotations

from collections.abc import Mapping

from torchrec_gr.data.step_loader import BatchT, StepLoader


class SlicedLoader(StepLoader[BatchT]):
    """A StepLoader whose steps hold so many units each, and whose ranks as equally many as can be.

    Step k of an epoch takes units `order[k * batch_size : (k + 1) * batch_size]` of the global
    order; rank r takes the r-th of `world_size` contiguous slices of them.

    Args:
        num_units: rows or sequences of one epoch, over all ranks.
        batch_size: of them in one step, over all ranks.
        seed, rank, world_size, settings: as StepLoader takes them.

    Raises:
        ValueError: a number outside its range.
    """

    def __init__(
        self,
        num_units: int,
        *,
        batch_size: int,
        seed: int | None,
        rank: int,
        world_size: int,
        settings: Mapping[str, object],
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        super().__init__(
            seed=seed,
            rank=rank,
            world_size=world_size,
            settings={"batch_size": batch_size, **settings},
        )
        self.num_units = num_units
        self.batch_size = batch_size

    @property
    def num_steps(self) -> int:
        """Steps of one epoch; the last one may be smaller."""
        return -(-self.num_units // self.batch_size)

    def _slice(self, step: int) -> tuple[int, int]:
        """This rank's slice of the epoch's order in one step; may be empty."""
        first = step * self.batch_size
        num_units = min(self.batch_size, self.num_units - first)
        return (
            first + num_units * self.rank // self.world_size,
            first + num_units * (self.rank + 1) // self.world_size,
        )
