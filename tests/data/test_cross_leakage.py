"""Nothing that happens from a moment on may change a computed feature of a row up to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.data.crossed_clicks import (
    cross_values,
    crossed_events,
    crossed_rows,
    prepare_crossed,
)
from torchrec_gr.data.cross_features import CrossFeatures
from torchrec_gr.data.cross_store import CrossStore, Past
from torchrec_gr.data.prepared_log import PreparedLog

Crosses = Callable[[PreparedLog, pd.DataFrame], CrossFeatures]


def honest(log: PreparedLog, rows: pd.DataFrame) -> CrossFeatures:
    assert log.crosses is not None
    return log.crosses


def leaks(crosses: Crosses, rows: pd.DataFrame, moment: int, folder: Path) -> set[str]:
    """The features of rows at or before a moment that its rows, or later ones, change.

    Args:
        crosses: gives a prepared log the features to look into.
        rows: a log, of which some rows lie at the moment itself.
        moment: a time of the log.
        folder: is made.
    """
    folder.mkdir()
    now, later = rows["time"] == moment, rows["time"] > moment
    at_or_after = now | later
    flipped = rows.assign(
        click=rows["click"].where(~at_or_after, 1 - rows["click"]),
        like=rows["like"].where(~at_or_after, 1 - rows["like"].fillna(0)),
    )
    other = crossed_rows(len(rows), seed=99).assign(time=rows["time"] + 5)
    redrawn = flipped.where(~later, other)
    alone = ~at_or_after | (np.arange(len(rows)) == np.flatnonzero(now)[0])
    everyone = np.ones(len(rows), bool)
    found: set[str] = set()
    before = _values(crosses, rows, folder / "before")
    for i, (changed, kept) in enumerate(
        [(flipped, everyone), (redrawn, everyone), (rows, ~later), (flipped, alone)]
    ):
        compared = (kept & ~later).to_numpy()
        after = _values(crosses, changed[kept], folder / f"after-{i}")
        for name, values in after.items():
            same_rows = compared[np.asarray(kept)]
            if before[name][compared].tobytes() != values[same_rows].tobytes():
                found.add(name)
    return found


def _values(crosses: Crosses, rows: pd.DataFrame, folder: Path) -> dict[str, np.ndarray]:
    rows = rows.astype({"user": int, "time": int, "item": int, "hour": int, "click": int})
    log = prepare_crossed(folder, rows, (crossed_events(),))
    return cross_values(log, crosses(log, rows))


@dataclasses.dataclass(frozen=True)
class UpToNow(CrossStore):
    """Takes what happened at the moment itself for earlier."""

    def before(self, rows: np.ndarray, moments: np.ndarray) -> Past:
        return super().before(rows, np.minimum(moments + 1, self.num_moments))


@dataclasses.dataclass(frozen=True)
class Everything(CrossStore):
    """Takes the whole log for earlier."""

    def before(self, rows: np.ndarray, moments: np.ndarray) -> Past:
        return super().before(rows, np.full_like(moments, self.num_moments))


def replaced(log: PreparedLog, kind: type[CrossStore], keys: Any) -> CrossFeatures:
    assert log.crosses is not None
    stores = {
        key: kind(**vars(store)) if key in keys else store
        for key, store in log.crosses.stores.items()
    }
    return dataclasses.replace(log.crosses, stores=stores)


def searched_up_to_now(log: PreparedLog, rows: pd.DataFrame) -> CrossFeatures:
    return replaced(log, UpToNow, {("item",)})


def prior_of_everything(log: PreparedLog, rows: pd.DataFrame) -> CrossFeatures:
    return replaced(log, Everything, {()})


def rate_with_itself(log: PreparedLog, rows: pd.DataFrame) -> CrossFeatures:
    clicked = rows["click"].to_numpy()

    @dataclasses.dataclass(frozen=True)
    class WithItself(CrossStore):
        def before(self, rows: np.ndarray, moments: np.ndarray) -> Past:
            past = super().before(rows, moments)
            positives, known = past.outcomes["click"]
            own = {"click": (positives + clicked[rows], known + 1)}
            return past._replace(outcomes={**past.outcomes, **own})

    return replaced(log, WithItself, {("user",)})


@pytest.fixture
def rows() -> pd.DataFrame:
    """With two rows of one item, user and tag at the middle one of `moments`."""
    rows = crossed_rows(90)
    middle = np.flatnonzero(rows["time"] == moments(rows)[1])
    rows.loc[middle, ["item", "user", "tag", "click"]] = (3, 100, 1, 1)
    return rows


def moments(rows: pd.DataFrame) -> list[int]:
    """Times that several rows share: an early, a middle and a late one."""
    shared = sorted(set(rows.loc[rows["time"].duplicated(), "time"]))
    return [shared[2], shared[len(shared) // 2], shared[-2]]


def test_the_future_changes_nothing(rows: pd.DataFrame, tmp_path: Path) -> None:
    for i, moment in enumerate(moments(rows)):
        assert leaks(honest, rows, moment, tmp_path / str(i)) == set()


@pytest.mark.parametrize(
    ("planted", "leaking"),
    [
        (searched_up_to_now, {"click_item_dense", "like_item_dense", "count_item_dense"}),
        (rate_with_itself, {"click_user_dense", "click_user_categorical"}),
        (prior_of_everything, {"click_item_dense", "click_user_tag_dense", "like_tag_dense"}),
    ],
)
def test_a_planted_leak_is_caught(
    planted: Crosses, leaking: set[str], rows: pd.DataFrame, tmp_path: Path
) -> None:
    found = leaks(planted, rows, moments(rows)[1], tmp_path / "log")
    assert leaking <= found
    if planted is not prior_of_everything:
        key = "item" if planted is searched_up_to_now else "user"
        assert all(f"_{key}_dense" in name or f"_{key}_categorical" in name for name in found)
