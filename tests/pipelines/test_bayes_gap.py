"""The study of the gap to the best possible AUC: on tiny logs, stopped and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipelines import bayes_gap
from pipelines.bayes_gap import Gap, main, report

OPTIONS = {"num_items": 60, "num_clusters": 4}


def test_a_study_writes_its_table_and_is_not_run_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"data_options": OPTIONS}))
    out = tmp_path / "out"
    arguments = ["--config", str(config), "--out", str(out), "--models", "dlrm", "--dims", "4,8"]
    arguments += ["--seeds", "2", "--epochs", "1", "--sizes"]
    main([*arguments, "1200"])
    main([*arguments, "2400,1200"])
    found = json.loads((out / "bayes_gap.json").read_text())
    assert [(gap["model"], gap["dim"], len(gap["aucs"])) for gap in found] == [
        ("dlrm", 4, 2),
        ("dlrm", 8, 2),
    ] * 2
    assert found[0]["training_rows"] < found[-1]["training_rows"]
    for gap in found:
        assert gap["gap"] == pytest.approx(gap["bayes_auc"] - sum(gap["aucs"]) / 2)
    text = (out / "bayes_gap.md").read_text()

    def not_again(*_: object, **__: object) -> None:
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr("pipelines.stages.comparison.finetune", not_again)
    main([*arguments, "1200,2400"])
    assert (out / "bayes_gap.md").read_text() == text


def test_the_report_says_what_the_seeds_can_tell() -> None:
    small = Gap(1000, "dlrm", 8, (0.60, 0.61, 0.62), 0.75)
    shrunk = Gap(4000, "dlrm", 8, (0.70, 0.71, 0.72), 0.75)
    grown = Gap(4000, "dlrm", 8, (0.50, 0.51, 0.52), 0.75)
    same = Gap(4000, "dlrm", 8, (0.60, 0.62, 0.64), 0.75)
    text = report([small, shrunk])
    assert "| 1,000 | dlrm | 8 | 0.6100 ± 0.0100 | 0.7500 | 0.1400 | 0.1152 to 0.1648 |" in text
    assert "from 0.1400 at training rows 1,000 to 0.0400 at 4,000" in text
    assert "it shrinks." in text
    assert "one width only" in text
    assert "it grows." in report([small, grown])
    assert "not told apart" in report([small, same])
    between = Gap(2000, "dlrm", 8, (0.50, 0.51, 0.52), 0.75)
    assert "it shrinks, though not at every step." in report([small, between, shrunk])
    one_seed = [Gap(rows, "dlrm", 8, (0.6,), 0.75) for rows in (1000, 4000)]
    assert "no verdict: it takes two seeds" in report(one_seed)


def test_wrong_words_end_it_before_a_log_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bayes_gap, "open_log", None)
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--models", "dlmr"])
