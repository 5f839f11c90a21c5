"""From the log's end: what rows after a moment hold, no prediction at or before it knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from tests.data.crossed_clicks import (
    TEST_FROM,
    computed_features,
    crossed_rows,
    crossed_schema,
    prepare_crossed,
)
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.window_loader import WindowLoader
from torchrec_gr.models.mtgr import MTGRRanker
from torchrec_gr.models.mtgr_config import MTGRConfig

CONFIG = MTGRConfig(
    dim=16, num_layers=2, num_heads=2, max_seq_len=80, init_std=0.7, position_bias=True
)
SCHEMA = crossed_schema(
    computed_features((("item",), ("user", "tag"))),
    request_features=("hour", "age"),
    max_history=20,
)


def ranker(log: PreparedLog) -> MTGRRanker:
    torch.manual_seed(0)
    model = MTGRRanker(CONFIG, SCHEMA, log.table_rows, table_dim=4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "position_table" in name:
                parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def scores(log: PreparedLog, **settings: Any) -> Tensor:
    """The logit of every row of the test split, by its place in the log; one step."""
    loader = WindowLoader(log, "test", **{"batch_tokens": 10**6, **settings})
    model = ranker(log)
    logits = torch.full((sum(block.num_rows for block in log.blocks), 1), torch.nan)
    with torch.no_grad():
        for batch in loader:
            _, output = model(batch)
            logits[batch.source_rows] = output.logits
    return logits


def moved(rows: pd.DataFrame, moment: int, folder: Path) -> set[str]:
    """Which changes of the rows after a moment move a prediction at or before it.

    The labels at the moment itself change too; what is added stands behind all rows of the log.
    """
    folder.mkdir()
    later, now = (rows["time"] > moment).to_numpy(), (rows["time"] == moment).to_numpy()
    compared = torch.from_numpy(((rows["time"] >= TEST_FROM) & ~later).to_numpy())
    assert compared.any()
    flipped = rows.assign(click=rows["click"].where(~(later | now), 1 - rows["click"]))
    other = crossed_rows(len(rows), seed=99)
    other = other.assign(time=rows["time"].to_numpy() + 3)
    redrawn = flipped.where(pd.Series(~later), other)
    more = other[(other["time"] > moment)]
    changes = {
        "labels": flipped,
        "everything": redrawn,
        "removed": rows[~later],
        "added": pd.concat([rows, more]),
    }
    before = scores(prepared(rows, folder / "before"))[compared]
    found = set()
    for name, changed in changes.items():
        kept = ~later if name == "removed" else np.ones(len(rows), bool)
        after = scores(prepared(changed, folder / name))
        after = after[: int(kept.sum())][compared[torch.from_numpy(kept)]]
        assert not after.isnan().any()
        # Fewer or more rows make products of other shapes, which may round differently.
        atol = 0 if name in ("labels", "everything") else 2e-6
        if not torch.allclose(before, after, rtol=0, atol=atol):
            found.add(name)
    return found


def prepared(rows: pd.DataFrame, folder: Path) -> PreparedLog:
    types = {"user": int, "time": int, "item": int, "hour": int, "click": int}
    return prepare_crossed(folder, rows.astype(types), schema=SCHEMA)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return crossed_rows(120)


def moments(rows: pd.DataFrame) -> list[int]:
    """Times of the test split that rows share, and its first and last but one."""
    times = rows.loc[rows["time"] >= TEST_FROM, "time"]
    shared = sorted(set(times[times.duplicated()]))
    return sorted({int(times.min()), *(int(t) for t in shared[:: max(1, len(shared) // 3)])})


def test_the_future_of_the_log_moves_nothing(rows: pd.DataFrame, tmp_path: Path) -> None:
    for i, moment in enumerate(moments(rows)):
        assert moved(rows, moment, tmp_path / str(i)) == set(), moment


@pytest.mark.parametrize("leak", ["candidates know their last exposure", "computed as of the end"])
def test_a_planted_leak_is_caught(
    leak: str, rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if leak == "computed as of the end":
        from torchrec_gr.data.cross_features import CrossFeatures

        fill = CrossFeatures.fill
        monkeypatch.setattr(
            CrossFeatures, "fill", lambda self, rows, known: fill(self, rows, known + 10**6)
        )
    else:
        from torchrec_gr.models import mtgr_rows

        moments_of = mtgr_rows._moments
        monkeypatch.setattr(mtgr_rows, "_moments", lambda *given: moments_of(*given) + 10**6)
    middle = moments(rows)[1]
    expected = {"everything", "removed", "added"}
    assert expected <= moved(rows, middle, tmp_path / "log")


def test_exposures_of_one_sequence_score_as_sequences_of_their_own(
    rows: pd.DataFrame, tmp_path: Path
) -> None:
    """All events are real-time ones, and all fit, so that each exposure sees what it saw."""
    schema = crossed_schema(
        computed_features((("item",), ("user", "tag"))),
        request_features=("hour", "age"),
        max_history=60,
    )
    log = prepare_crossed(tmp_path / "log", rows, schema=schema)
    settings = {"real_time_hours": 1000.0}
    together = scores(log, **settings)
    alone = scores(log, max_candidates=1, **settings)
    known = ~together.isnan()
    assert int(known.sum()) == log.num_rows("test")
    assert torch.equal(known, ~alone.isnan())
    torch.testing.assert_close(alone[known], together[known], rtol=1e-4, atol=1e-5)
