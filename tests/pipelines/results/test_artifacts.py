"""What lies beside results.json is read back as written, and damage is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.results.artifacts import (
    Predictions,
    RunInfo,
    append_curve,
    describe_environment,
    load_predictions,
    predictions_path,
    read_curves,
    read_run_info,
    save_predictions,
    write_run_info,
)
from pipelines.results.rows import RunKey, Variant

RUN = RunKey(Variant("dlrm", "none", 32, None), 0)


def test_run_info_is_read_back(tmp_path: Path) -> None:
    assert read_run_info(tmp_path) == RunInfo()
    info = RunInfo(
        "Title", "command", {"rows": 3}, {"a": {"b": 1}}, {"torch": "2"}, 3, remarks=("r",)
    )
    write_run_info(tmp_path, info)
    assert read_run_info(tmp_path) == info


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"schema_version": 0}', '{"schema_version": 1, "tilte": "x"}']
)
def test_a_foreign_run_json_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json is not a run's description"):
        read_run_info(tmp_path)


def test_the_environment_names_what_numbers_depend_on() -> None:
    assert {"python", "torch", "torchrec", "numpy", "machine"} <= describe_environment().keys()


def test_predictions_come_back_in_the_logs_order(tmp_path: Path) -> None:
    given = Predictions(
        np.array([1.0, 0.0, 1.0]),
        np.array([0.1, 0.2, 0.3], np.float32),
        np.array(["b", "a", "a"], dtype=object),
        np.array([7, 2, 5]),
        3,
    )
    save_predictions(tmp_path, RUN, given)
    read = load_predictions(tmp_path, RUN)
    assert read is not None
    assert read.source_rows.tolist() == [2, 5, 7]
    assert read.labels.tolist() == [False, True, True]
    assert read.scores.tolist() == given.scores[[1, 2, 0]].tolist()
    assert read.user_ids is not None
    assert read.user_ids.tolist() == ["a", "a", "b"]
    assert read.epoch == 3
    save_predictions(tmp_path, RUN, given._replace(user_ids=None, epoch=4))
    read = load_predictions(tmp_path, RUN)
    assert read is not None
    assert (read.user_ids, read.epoch) == (None, 4)
    assert load_predictions(tmp_path, RUN._replace(seed=1)) is None


def test_predictions_that_cannot_be_right_are_refused(tmp_path: Path) -> None:
    labels, scores = np.array([1, 0]), np.array([0.1, 0.2])
    with pytest.raises(ValueError, match="score row 4 of the log twice"):
        save_predictions(tmp_path, RUN, Predictions(labels, scores, None, np.array([4, 4]), 1))
    with pytest.raises(ValueError, match="unequal lengths"):
        save_predictions(tmp_path, RUN, Predictions(labels, scores, None, np.array([4]), 1))
    assert load_predictions(tmp_path, RUN) is None


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_truncated_predictions_are_named(tmp_path: Path, keep: int) -> None:
    labels, scores = np.array([1, 0]), np.array([0.1, 0.2])
    save_predictions(tmp_path, RUN, Predictions(labels, scores, None, np.array([0, 1]), 1))
    path = predictions_path(tmp_path, RUN)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="is damaged"):
        load_predictions(tmp_path, RUN)


def test_a_curve_counts_the_last_run_of_a_step_and_passes_over_a_torn_line(tmp_path: Path) -> None:
    for step, loss in ((0, 0.7), (10, 0.6), (20, 0.5), (10, 0.55)):
        append_curve(tmp_path, "run", step=step, loss=loss, lr=0.1, stage="train")
    append_curve(tmp_path, "run", step=0, loss=8.0, lr=0.1, stage="pretrain")
    with (tmp_path / "curves" / "run.jsonl").open("a") as file:
        file.write('{"step": 30, "lo')
    curves = {curve.stage: curve for curve in read_curves(tmp_path)}
    assert curves["train"].steps.tolist() == [0, 10, 20]
    assert curves["train"].losses.tolist() == [0.7, 0.55, 0.5]
    assert curves["pretrain"].losses.tolist() == [8.0]
