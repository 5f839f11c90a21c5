"""How much a run may train, whatever its epochs say."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limit:
    """Ends a run in the middle of an epoch, at the first step that reaches it.

    Args:
        seconds: of training steps, as `EpochProgress` counts them; None: as many as it takes.
        examples: that are trained on, as `EpochProgress` counts them; None: as many as there are.

    Raises:
        ValueError: neither is given, or one is not above 0.
    """

    seconds: float | None = None
    examples: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.seconds, self.examples) if value is not None]
        if not given or not all(value > 0 for value in given):
            raise ValueError(
                f"a limit needs seconds or examples above 0, got seconds={self.seconds}, "
                f"examples={self.examples}"
            )

    def share(self, seconds: float, num_examples: int) -> float:
        """The share of it that is spent; 1 and more where the run must end."""
        of_seconds = seconds / self.seconds if self.seconds is not None else 0.0
        of_examples = num_examples / self.examples if self.examples is not None else 0.0
        return max(of_seconds, of_examples)
