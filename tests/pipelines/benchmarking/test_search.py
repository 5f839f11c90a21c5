"""The search: what wins, what is kept, and that the test rows are never scored."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.benchmarking import search as searching
from pipelines.benchmarking.search import Trial, lay, read_trials, search, tune
from pipelines.benchmarking.terms import Terms
from pipelines.configuration.benchmark_settings import Search
from pipelines.configuration.config import build, read_config
from pipelines.configuration.settings import Settings
from pipelines.pretrain import Pretrained
from pipelines.results.plan import Run
from pipelines.stages.comparison import Comparison
from pipelines.stages.open_log import open_log
from pipelines.stages.ranking_run import RankingRun
from tests.pipelines.clicks import write_clicks
from torchrec_gr.data.prepared_log import PreparedLog
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


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that trials score, as they do."""
    found: list[str] = []
    start = searching.start_ranking

    def watching(*args: Any, **kwargs: Any) -> RankingRun:
        run = start(*args, **kwargs)
        to_score = run.to_score
        object.__setattr__(run, "to_score", lambda split: (found.append(split), to_score(split))[1])
        return run

    monkeypatch.setattr(searching, "start_ranking", watching)
    return found


def opened(folder: Path, **further: Any) -> tuple[PreparedLog, Settings]:
    settings = build(Settings, read_config(write_clicks(folder, {"dims": [8], **further})))
    return open_log(settings, folder / "out" / "data"), settings


def nothing_pretrained(run: Run) -> Pretrained:
    raise AssertionError(f"{run} starts from scratch")


def test_trials_train_on_a_part_of_an_epoch_and_never_score_the_test_rows(
    tmp_path: Path, scored: list[str]
) -> None:
    log, settings = opened(tmp_path, search={"trials": [[1, 1], [3, 1]], "seeds": 2})
    runs = [Run("dlrm", "none", 8, seed, None) for seed in range(3)]
    out = tmp_path / "out"
    tuned = tune(log, settings, out, torch.device("cpu"), runs, nothing_pretrained)
    assert scored == ["validation"] * 4  # two trials of two seeds
    trials = read_trials(out, settings)["dlrm"]
    assert trials[0].settings == {"dlrm": {"tables": {"lr": 0.02}, "dense": {"lr": 0.001}}}
    assert trials[1].settings["dlrm"]["tables"]["lr"] == pytest.approx(0.06)
    best = max(trials, key=lambda trial: trial.validation_auc)
    assert tuned["dlrm"].dlrm.tables.lr == best.settings["dlrm"]["tables"]["lr"]


def test_a_trial_of_several_epochs_is_judged_by_its_best(
    tmp_path: Path, scored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.6, 0.9, 0.7, 0.8, 0.8, 0.8])
    monkeypatch.setattr(searching, "auc", lambda *_: next(values))
    log, settings = opened(tmp_path, search={"trials": [[1, 1], [3, 1]], "epochs": 2.5})
    runs = [Run("dlrm", "none", 8, 0, None)]
    out = tmp_path / "out"
    tune(log, settings, out, torch.device("cpu"), runs, nothing_pretrained)
    assert [t.validation_auc for t in read_trials(out, settings)["dlrm"]] == [0.9, 0.8]
    assert not list(values)  # three times each: after both epochs and at the end


def test_what_is_pretrained_is_tuned_as_it_runs(tmp_path: Path) -> None:
    small = {"num_layers": 1, "num_heads": 2}
    log, settings = opened(
        tmp_path,
        transformer=small,
        pretrain={"epochs": 1, "num_negatives": 8, "batch_size": 8},
        search={"trials": [[1, 1], [3, 1]], "seeds": 2, "epochs": 1.0},
    )
    out, device = tmp_path / "out", torch.device("cpu")
    found = Comparison(log, Terms(settings), out, device)
    asked: list[Run] = []

    def pretrained(run: Run) -> Pretrained:
        asked.append(run)
        return found.pretrained(run)

    runs = [Run("gpsd", "none", 8, 0, None), Run("gpsd", "sparse-freeze", 8, 0, "all")]
    tuned = tune(log, settings, out, device, runs, pretrained)
    assert set(tuned) == set(read_trials(out, settings)) == {"gpsd", "gpsd, sparse-freeze"}
    assert [run.seed for run in asked] == [0, 1] * 2
    assert {run.strategy for run in asked} == {"sparse-freeze"}
    scratch, frozen = (read_trials(out, settings)[name] for name in tuned)
    assert scratch[0].settings == frozen[0].settings
    assert scratch[0].validation_auc != frozen[0].validation_auc
