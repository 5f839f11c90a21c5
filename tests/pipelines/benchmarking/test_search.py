"""The search: what wins, what is kept, and that the test rows are never scored."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from pipelines.benchmarking import search as searching
from pipelines.benchmarking.search import Trial, lay, read_trials, search, tune
from pipelines.configuration.benchmark_settings import Search
from pipelines.configuration.config import build, read_config
from pipelines.configuration.settings import Settings
from pipelines.stages.open_log import open_log
from tests.pipelines.clicks import write_clicks
from torchrec_gr.data.log_source import TEST
from torchrec_gr.training.process_group import process_group

TRIALS = ((1.0, 1.0), (3.0, 1.0), (1.0, 0.3))
SETTINGS = dataclasses.replace(Settings(), search=Search(TRIALS))


def attempt(model: str, factors: tuple[float, float]) -> Trial:
    return Trial({"factors": list(factors)}, 0.7 if factors == (3.0, 1.0) else 0.6, 1.0)


@pytest.fixture(autouse=True)
def one_process() -> object:
    with process_group("cpu"):
        yield


def test_the_highest_validation_auc_wins_and_trials_are_not_repeated(tmp_path: Path) -> None:
    best = search(SETTINGS, tmp_path, ["dlrm", "mtgr"], attempt)
    assert {model: trial.settings for model, trial in best.items()} == {
        "dlrm": {"factors": [3.0, 1.0]},
        "mtgr": {"factors": [3.0, 1.0]},
    }
    record = json.loads((tmp_path / "search.json").read_text())
    assert record["winners"] == {"dlrm": 1, "mtgr": 1}
    assert record["space"][1] == {"tables": 3.0, "dense": 1.0}

    def never(model: str, factors: tuple[float, float]) -> Trial:
        raise AssertionError("a trial was repeated")

    assert search(SETTINGS, tmp_path, ["dlrm", "mtgr"], never).keys() == {"dlrm", "mtgr"}


def test_a_stopped_search_goes_on_with_the_next_trial(tmp_path: Path) -> None:
    done: list[tuple[float, float]] = []

    def stopping(model: str, factors: tuple[float, float]) -> Trial:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(factors)
        return attempt(model, factors)

    with pytest.raises(KeyboardInterrupt):
        search(SETTINGS, tmp_path, ["dlrm"], stopping)
    assert len(read_trials(tmp_path, SETTINGS)["dlrm"]) == 2
    rest: list[tuple[float, float]] = []

    def going_on(model: str, factors: tuple[float, float]) -> Trial:
        rest.append(factors)
        return attempt(model, factors)

    assert search(SETTINGS, tmp_path, ["dlrm"], going_on)["dlrm"].validation_auc == 0.7
    assert rest == [TRIALS[2]]


def test_a_search_with_other_trials_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    search(SETTINGS, tmp_path, ["dlrm"], attempt)
    other = dataclasses.replace(SETTINGS, search=Search(((1.0, 1.0), (2.0, 1.0))))
    with pytest.raises(ValueError, match="other trials"):
        read_trials(tmp_path, other)
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        read_trials(tmp_path, SETTINGS)


def test_settings_are_laid_where_the_model_reads_them() -> None:
    variants = {"deep": {"mtgr": {"sizes": {"num_layers": 5}, "dense": {"lr": 0.5}}}}
    settings = build(Settings, {"variants": variants})
    tuned = lay(settings, "mtgr@deep", {"mtgr": {"dense": {"lr": 0.1}}})
    assert tuned.variants["deep"]["mtgr"] == {"sizes": {"num_layers": 5}, "dense": {"lr": 0.1}}
    assert tuned.mtgr == settings.mtgr
    assert lay(settings, "dlrm", {"dlrm": {"tables": {"lr": 0.1}}}).dlrm.tables.lr == 0.1


def test_trials_train_on_a_share_and_never_score_the_test_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clicks(tmp_path, {"dims": [8], "search": {"trials": [[1, 1], [3, 1]], "seeds": 2}})
    settings = build(Settings, read_config(path))
    log = open_log(settings, tmp_path / "out" / "data")
    scored: list[str] = []
    start = searching.start_ranking

    def watching(*args: object, **kwargs: object) -> object:
        run = start(*args, **kwargs)
        to_score = run.to_score
        object.__setattr__(
            run, "to_score", lambda split: (scored.append(split), to_score(split))[1]
        )
        return run

    monkeypatch.setattr(searching, "start_ranking", watching)
    tuned = tune(log, settings, tmp_path / "out", torch.device("cpu"), ["dlrm"])
    assert scored == ["validation"] * 4  # two trials of two seeds
    assert TEST not in scored
    trials = read_trials(tmp_path / "out", settings)["dlrm"]
    assert trials[0].settings == {"dlrm": {"tables": {"lr": 0.02}, "dense": {"lr": 0.001}}}
    assert trials[1].settings["dlrm"]["tables"]["lr"] == pytest.approx(0.06)
    best = max(trials, key=lambda trial: trial.validation_auc)
    assert tuned["dlrm"].dlrm.tables.lr == best.settings["dlrm"]["tables"]["lr"]
