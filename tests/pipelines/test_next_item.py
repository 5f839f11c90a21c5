"""Next-item training on the command line: results, restarts, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pipelines import next_item
from pipelines.recommending.report import METRICS, read_rows
from torchrec_gr.training.trainer import Trainer

NUM_USERS, NUM_ITEMS, LENGTH = 60, 24, 14
SIZES = {
    "trunk": {"block": "hstu_research", "dim": 16, "bias": "position_time", "max_seq_len": 24},
    "max_history": 12,
    "num_negatives": 8,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """MovieLens files of users who watch every film in its order, each from a film of their own."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, NUM_ITEMS, NUM_USERS)
    users, places = np.divmod(np.arange(NUM_USERS * LENGTH), LENGTH)
    ratings = pd.DataFrame(
        {
            "user_id": users,
            "movie_id": (first[users] + places) % NUM_ITEMS,
            "rating": rng.integers(1, 6, users.size),
            "order_pos": places,
        }
    )
    folder = tmp_path / "ml"
    folder.mkdir()
    ratings.to_parquet(folder / "ratings.parquet")
    films = {"movie_id": np.arange(NUM_ITEMS), "genres": ["Action"] * NUM_ITEMS}
    pd.DataFrame(films).to_parquet(folder / "movies.parquet")
    return folder


def run(folder: Path, out: Path, *arguments: str, **settings: Any) -> None:
    config = out.with_suffix(".yaml")
    lr = {"lr": 0.02}
    plain = {"sizes": SIZES, "batch_size": 16, "evaluate_every": 2, "tables": lr, "dense": lr}
    config.write_text(yaml.safe_dump({**plain, **settings}))
    words = ["--data-dir", str(folder), "--config", str(config), "--out", str(out), *arguments]
    next_item.main(words)


def test_a_run_learns_the_order_and_reports_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(folder, out, "--epochs", "8", "--seeds", "0,1")
    rows = read_rows(out)
    assert [(row.seed, row.epoch, row.last) for row in rows] == [
        (seed, epoch, epoch == 8) for seed in (0, 1) for epoch in (2, 4, 6, 8)
    ]
    assert set(rows[-1].metrics) == set(METRICS)
    assert (rows[-1].num_items, rows[-1].num_users) == (NUM_ITEMS, NUM_USERS)
    assert not rows[-1].reads_times  # the log knows only an order
    # Ten items are left to each user; by chance the first one is hit by a tenth.
    assert rows[-1].metrics["ndcg@10"] > 0.8
    report = (out / "report.md").read_text()
    assert report in capsys.readouterr().out
    assert "| hstu | " in report
    assert "published" not in report.split("### After")[1]  # sizes are not the published ones


def test_a_run_goes_on_where_it_was_stopped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folder, tmp_path / "whole", "--epochs", "4")
    trained = Trainer.train_epoch

    def stop(trainer: Trainer) -> Any:
        if trainer.progress.epoch == 3:
            raise KeyboardInterrupt
        return trained(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            run(folder, tmp_path / "cut", "--epochs", "4")
    assert [row.epoch for row in read_rows(tmp_path / "cut")] == [2]
    run(folder, tmp_path / "cut", "--epochs", "4")
    whole, cut = read_rows(tmp_path / "whole"), read_rows(tmp_path / "cut")
    assert [(row.loss, row.metrics) for row in whole] == [(row.loss, row.metrics) for row in cut]


def test_validation_s_events_are_predicted_by_a_model_that_saw_none_of_them(
    folder: Path, tmp_path: Path
) -> None:
    """The last event changes nothing there."""
    found = []
    for changed in (False, True):
        out = tmp_path / str(changed)
        if changed:
            ratings = pd.read_parquet(folder / "ratings.parquet")
            is_last = ratings["order_pos"] == LENGTH - 1
            ratings.loc[is_last, "movie_id"] = (ratings["movie_id"] + 7) % NUM_ITEMS
            ratings.to_parquet(folder / "ratings.parquet")
        run(folder, out, "--epochs", "1", held_out="validation")
        found.append([row.metrics for row in read_rows(out)])
    assert found[0] == found[1]


def test_published_sizes_stand_beside_the_published_figures(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = {"sizes": None, "batch_size": 64}
    run(folder, out, "--epochs", "1", "--model", "sasrec", **config)
    (row,) = read_rows(out)
    assert row.published == "ml-1m"
    assert (
        "| sasrec, published (ml-1m) |  |  |  |  | .2853 | .1603 |"
        in (out / "report.md").read_text()
    )


def test_a_folder_of_other_results_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.json").write_text(json.dumps([{"auc": 0.5}]))
    with pytest.raises(SystemExit, match="does not hold next-item results"):
        run(folder, out, "--epochs", "1")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modle": "hstu"}, "modle"),
        ({"model": "hst"}, "hst"),
        ({"sizes": {"max_history": 0}}, "max_history"),
    ],
)
def test_settings_that_cannot_be_are_named(
    folder: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(folder, tmp_path / "out", **settings)
    assert message in f"{stopped.value} {capsys.readouterr().err}"
