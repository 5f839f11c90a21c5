"""What the scaling study has measured so far, on disk."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.configuration.config import to_plain
from pipelines.results.rows import RESULTS_FILE, write_atomically
from pipelines.scaling_law.settings import ScalingSettings


@dataclasses.dataclass(frozen=True)
class ScalingRow:
    """One evaluation of one size.

    Args:
        size: its name.
        num_non_embedding: weights that multiply tokens.
        num_dense: parameters that are not of the item table.
        epoch: after how many.
        training_loss: mean of the epoch, over sampled negatives.
        held_out_loss: mean over users, over the whole catalogue.
        minutes: spent in training steps so far.
    """

    size: str
    num_non_embedding: int
    num_dense: int
    epoch: int
    training_loss: float
    held_out_loss: float
    minutes: float


class ScalingResults:
    """The rows of a folder and the loss of each user in each; what was known is read.

    Args:
        out: the folder.
        settings: all rows are of these, whatever the sizes and the number of epochs, on which
            no epoch depends.

    Raises:
        ValueError: the folder holds results of another kind, or under other settings.
    """

    def __init__(self, out: Path, settings: ScalingSettings) -> None:
        self.out = out
        self.settings = settings
        self.rows: list[ScalingRow] = []
        self._shared = _shared(settings)
        path = out / RESULTS_FILE
        if not path.exists():
            return
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            shared, rows = known["settings"], [ScalingRow(**row) for row in known["rows"]]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} does not hold results of scaling ({error!r}): name another --out"
            ) from error
        if shared != self._shared:
            names = sorted(
                k for k in {*shared, *self._shared} if shared.get(k) != self._shared.get(k)
            )
            raise ValueError(
                f"{path} holds results under other settings ({', '.join(names)}): name another "
                "--out, or ask for the settings that it was begun with"
            )
        self.rows = rows

    def add(self, row: ScalingRow, losses: np.ndarray[Any, Any]) -> None:
        """Keeps an evaluation.

        Args:
            row: what it found.
            losses: [U], of each user.
        """
        path = self._losses_file(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, losses, allow_pickle=False)
        self.rows.append(row)
        plain = {
            "settings": self._shared,
            "rows": [dataclasses.asdict(known) for known in self.rows],
        }
        write_atomically(self.out / RESULTS_FILE, json.dumps(plain, indent=1).encode())

    def epochs_of(self, size: str) -> set[int]:
        """The epochs after which a size was evaluated."""
        return {row.epoch for row in self.rows if row.size == size}

    def is_finished(self, size: str) -> bool:
        """Whether a size has trained all epochs of the settings."""
        return self.settings.training.epochs in self.epochs_of(size)

    def finished(self) -> list[list[ScalingRow]]:
        """The evaluations of each finished size up to its last epoch, the fewest weights first."""
        names = dict.fromkeys(row.size for row in self.rows if self.is_finished(row.size))
        rows = [row for row in self.rows if row.epoch <= self.settings.training.epochs]
        of_sizes = [[row for row in rows if row.size == name] for name in names]
        return sorted(of_sizes, key=lambda rows: rows[0].num_non_embedding)

    def losses(self, row: ScalingRow) -> np.ndarray[Any, Any]:
        """[U] float32: the loss of each user in an evaluation."""
        losses: np.ndarray[Any, Any] = np.load(self._losses_file(row), allow_pickle=False)
        return losses

    def _losses_file(self, row: ScalingRow) -> Path:
        return self.out / row.size / f"held_out_losses-{row.epoch}.npy"


def _shared(settings: ScalingSettings) -> dict[str, Any]:
    """What must be alike in all rows, as JSON gives it back."""
    training = to_plain(settings.training)
    for name in ("data_dir", "epochs"):
        del training[name]
    plain: dict[str, Any] = json.loads(json.dumps({"seed": settings.seed, **training}))
    return plain
