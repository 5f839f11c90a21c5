"""PinRec through next-item training: what is retrieved is what the desired action leads to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pipelines import next_item
from pipelines.recommending.report import read_rows

NUM_USERS, LENGTH, NUM_ODD = 200, 16, 20
TRUNK = {"block": "sasrec", "dim": 16, "num_layers": 2, "max_seq_len": 20}
SETTINGS: dict[str, Any] = {
    "model": "pinrec",
    "sizes": {"trunk": TRUNK, "max_history": 14},
    "batch_size": 16,
    "evaluate_every": 8,
    "epochs": 8,
    "tables": {"lr": 0.02},
    "dense": {"lr": 0.02},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Users who like the even films and dislike the odd ones, each of both in their order.

    The last film, which is predicted, is liked.
    """
    rng = np.random.default_rng(0)
    liked = rng.integers(0, 2, (NUM_USERS, LENGTH)).astype(bool)
    liked[:, -1] = True
    first = rng.integers(0, NUM_ODD, (NUM_USERS, 1))
    place = np.where(liked, liked.cumsum(1), (~liked).cumsum(1))
    ratings = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(NUM_USERS), LENGTH),
            "movie_id": (2 * ((first + place) % NUM_ODD) + ~liked).flatten(),
            "rating": np.where(liked, 5, 1).flatten(),
            "order_pos": np.tile(np.arange(LENGTH), NUM_USERS),
        }
    )
    folder = tmp_path / "ml"
    folder.mkdir()
    ratings.to_parquet(folder / "ratings.parquet")
    films = {"movie_id": np.arange(2 * NUM_ODD), "genres": ["Action"] * 2 * NUM_ODD}
    pd.DataFrame(films).to_parquet(folder / "movies.parquet")
    return folder


def run(folder: Path, out: Path, **settings: Any) -> float:
    """NDCG@10 after the last epoch."""
    config = out.with_suffix(".yaml")
    config.write_text(yaml.safe_dump({**SETTINGS, **settings}))
    next_item.main(["--data-dir", str(folder), "--config", str(config), "--out", str(out)])
    return read_rows(out)[-1].metrics["ndcg@10"]


def test_the_desired_action_decides_what_is_retrieved(folder: Path, tmp_path: Path) -> None:
    right = run(folder, tmp_path / "liked", pinrec={"desired": 10, "window": 3})
    wrong = run(folder, tmp_path / "disliked", pinrec={"desired": 2, "window": 3})
    assert right > 0.6
    assert wrong < 0.5 * right
    assert "Ratings are not read, except by pinrec." in (tmp_path / "liked/report.md").read_text()


def test_an_action_that_is_not_there_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for pinrec, message in (
        ({"desired": 7}, "history_half_stars is never 7 in the training window: it has 2, 10"),
        ({"action": "history_half_star"}, "did you mean 'history_half_stars'"),
        ({"action": "history_movie_id", "desired": 3}, "action among the history features"),
    ):
        with pytest.raises(SystemExit) as refused:
            run(folder, tmp_path / "out", pinrec=pinrec)
        assert message in f"{refused.value} {capsys.readouterr().err}"
