"""Groups of parameters that train at a rate of their own, or only from some step on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from torchrec_gr.training.parameter_names import matching

FOR_GOOD = math.inf
"""As many steps as a parameter can be frozen for."""


@dataclasses.dataclass(frozen=True)
class ParameterGroup:
    """Parameters that train otherwise than the rest.

    All of it follows from the step, so a run that is stopped and resumed does the same.

    Args:
        patterns: tables by name, and shell patterns of parameters' names ("body.decoder.*").
        lr_scale: of the learning rate that they would have. PinFM fine-tunes its module at 0.1.
        frozen_steps: they are frozen in so many first steps, then train; FOR_GOOD: always. For
            epochs, multiply by the loader's steps an epoch.

    Raises:
        ValueError: no pattern, or a number out of range.
    """

    patterns: tuple[str, ...]
    lr_scale: float = 1.0
    frozen_steps: float = 0

    def __post_init__(self) -> None:
        if not isinstance(self.patterns, tuple) or not self.patterns:
            raise ValueError(f"patterns: expected at least one name in a tuple: {self.patterns!r}")
        if not self.lr_scale > 0:
            raise ValueError(
                f"lr_scale must be above 0, got {self.lr_scale}: to keep parameters as they are, "
                "freeze them by frozen_steps=FOR_GOOD"
            )
        if not self.frozen_steps >= 0:
            raise ValueError(f"frozen_steps must not be negative, got {self.frozen_steps}")


def group_of(
    names: Sequence[str], groups: Sequence[ParameterGroup]
) -> Mapping[str, ParameterGroup]:
    """The group of each name that is in one.

    Raises:
        ValueError: a pattern that means nothing, or a name in two groups.
    """
    found: dict[str, ParameterGroup] = {}
    for group in groups:
        for name in matching(names, group.patterns):
            if name in found:
                raise ValueError(
                    f"{name} is in two groups, by {found[name].patterns} and {group.patterns}: "
                    "each parameter may be in one"
                )
            found[name] = group
    return found
