"""The transfer strategies, and what a run does with the transferred weights afterwards."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, get_args

from torchrec_gr.training.parameter_groups import FOR_GOOD, ParameterGroup

Strategy = Literal[
    "none",
    "sparse",
    "sparse-freeze",
    "sparse-thaw",
    "sparse-slow",
    "full",
    "full-freeze",
    "full-thaw",
    "full-slow",
    "frozen",
]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

GPSD_STRATEGIES = tuple(strategy for strategy in STRATEGIES if strategy != "frozen")
"""Those that any two-stage ranker has; "frozen" is PinFM's, of a module inside a ranker."""

SLOW = 0.1
"""Of the learning rate, for what was transferred, under "-slow" (PinFM, 2507.12704)."""


def moves_dense(strategy: Strategy) -> bool:
    """Whether a strategy takes the dense parameters as well as the tables."""
    return strategy == "frozen" or strategy.startswith("full")


def freezes_tables(strategy: Strategy) -> bool:
    """Whether a strategy keeps the transferred tables as they came, for good."""
    return strategy == "frozen" or strategy.endswith("-freeze")


def parameter_groups(
    strategy: Strategy,
    tables: Collection[str],
    dense: Collection[str],
    *,
    thaw_after: int,
    table_scale: float = 1.0,
) -> Sequence[ParameterGroup]:
    """How the transferred parameters train.

    "sparse" transfers the tables, "full" the dense parameters of the same name as well; by
    themselves both train on like all others. "-freeze" keeps the tables as they came, "-thaw" keeps
    them for the first `thaw_after` steps, "-slow" trains all that was transferred at a tenth of the
    learning rate. "frozen" transfers tables and dense parameters, and none of them ever trains.
    "none" transfers nothing.

    Args:
        strategy: one of STRATEGIES.
        tables: transferred tables, by name.
        dense: transferred dense parameters, by name.
        thaw_after: steps, of "-thaw".
        table_scale: of the learning rate of transferred tables, where they train.

    Source: GPSD (2506.03699): full or sparse transfer, with the sparse part frozen or not; PinFM
    (2507.12704), section on fine-tuning: the module at a tenth of the ranker's rate, or frozen.
    "-thaw" is ours.
    """
    _, _, after = strategy.partition("-")
    if freezes_tables(strategy):
        never = (*tables, *dense) if strategy == "frozen" else tuple(tables)
        return [ParameterGroup(never, frozen_steps=FOR_GOOD)]
    if after == "thaw":
        return [ParameterGroup(tuple(tables), table_scale, frozen_steps=thaw_after)]
    if after == "slow":
        slow = ParameterGroup(tuple(tables), SLOW * table_scale)
        return [slow, ParameterGroup(tuple(dense), SLOW)] if dense else [slow]
    if strategy == "none" or table_scale == 1:
        return []
    return [ParameterGroup(tuple(tables), table_scale)]
